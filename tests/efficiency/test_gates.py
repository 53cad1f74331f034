import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.efficiency.gates import Gate, cumulative_rule, highest_threshold, top_k_rule
from cl_ac.errors import ConfigurationError
from cl_ac.kernels.gate import max_rule

rows = st.lists(st.integers(-3, 9), min_size=1, max_size=8)


@given(rows, st.floats(0, 1))
def test_the_cumulative_rule_keeps_the_least_that_reaches_the_threshold(row, threshold):
    kept = cumulative_rule(torch.tensor([row], dtype=torch.float32), threshold)[0].tolist()
    assert kept[row.index(max(row))]
    mass = sorted((max(value, 0) for value in row), reverse=True)
    if not sum(mass):
        assert kept == [value == max(row) for value in row]
        return
    needed = next(count for count in range(1, len(mass) + 1) if sum(mass[:count]) >= threshold * sum(mass) - 1e-9)
    smallest = mass[needed - 1]
    # Ties stay; what is not positive adds nothing.
    assert kept == [value >= smallest and value > 0 for value in row]


@given(rows, st.integers(1, 9))
def test_top_k_keeps_the_largest(row, count):
    kept = top_k_rule(torch.tensor(row, dtype=torch.float32), count)
    assert kept.sum() == min(count, len(row))
    inside, outside = torch.tensor(row)[kept], torch.tensor(row)[~kept]
    assert not len(outside) or inside.min() >= outside.max()


@pytest.mark.parametrize("gate", [Gate("max", 0.5), Gate("cumulative", 0.5), Gate("top_k", 1)])
def test_what_is_not_a_number_runs_everything(gate):
    predictions = torch.tensor([[1.0, torch.nan, 0.0], [1.0, 0.1, 0.0]])
    assert gate.mask(predictions).tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("gate", [Gate("max", 0.5), Gate("cumulative", 0.5)])
def test_equal_predictions_run_everything(gate):
    for value in (0.0, 2.0):
        assert gate.mask(torch.full((2, 3), value)).all()


def test_no_tokens_need_no_experts():
    for gate in (Gate("max", 0.5), Gate("cumulative", 0.5), Gate("top_k", 2), Gate("all")):
        assert gate.mask(torch.empty(0, 4)).shape == (0, 4)


def test_rules_of_a_gate():
    predictions = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert Gate("max", 0.5).mask(predictions).tolist() == [True, True, True, False]
    assert Gate("cumulative", 0.5).mask(predictions).tolist() == [True, True, False, False]
    assert Gate("top_k", 1).mask(predictions).tolist() == [True, False, False, False]
    assert Gate("all").mask(predictions).all()


@pytest.mark.parametrize(
    ("rule", "threshold"), [("max", 1.5), ("cumulative", -0.1), ("top_k", 0), ("top_k", 1.5), ("best", 0.5)]
)
def test_wrong_settings_are_one_sentence(rule, threshold):
    with pytest.raises(ConfigurationError, match=r"gate\.(rule|threshold) is"):
        Gate(rule, threshold)


values = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 4.0, torch.inf, -torch.inf, torch.nan]), min_size=1)


@given(values, st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]))
def test_the_highest_threshold_tells_the_max_rule_at_every_threshold(row, threshold):
    predictions = torch.tensor([row])
    assert torch.equal(highest_threshold(predictions) >= threshold, max_rule(predictions, threshold))
