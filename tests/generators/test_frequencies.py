import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.generators.frequencies import check_frequencies, frequencies, relative_cost, split

# Weights and biases of the paper's fully connected networks: 1024-2000-2000-100 and 1024-1000-1000-1000-100.
THREE = [1024 * 2000 + 2000, 2000 * 2000 + 2000, 2000 * 100 + 100], [1024, 2000, 2000]
FOUR = [1024 * 1000 + 1000, 1001 * 1000, 1001 * 1000, 1001 * 100], [1024, 1000, 1000, 1000]


@pytest.mark.parametrize(
    ("network", "rule", "shares", "cost"),
    [
        (THREE, "basic", [0.333, 0.333, 0.333], 0.568),
        (THREE, "cumulative_weights", [0.030, 0.044, 0.926], 0.089),
        (THREE, "total_weights", [0.085, 0.044, 0.871], 0.142),
        (THREE, "input_size", [0.204, 0.398, 0.398], 0.484),
        (THREE, "layer_index", [0.167, 0.333, 0.500], 0.407),
        (FOUR, "basic", [0.25, 0.25, 0.25, 0.25], 0.514),
        (FOUR, "cumulative_weights", [0.027, 0.041, 0.078, 0.854], 0.109),
        (FOUR, "total_weights", [0.075, 0.077, 0.077, 0.771], 0.179),
        (FOUR, "input_size", [0.254, 0.248, 0.248, 0.248], 0.517),
        (FOUR, "layer_index", [0.1, 0.2, 0.3, 0.4], 0.353),
    ],
)
def test_rules_on_the_networks_of_the_paper(network, rule, shares, cost):
    found = frequencies(rule, *network)
    assert found == pytest.approx(shares, abs=1e-3)
    assert relative_cost(found, network[0]) == pytest.approx(cost, abs=2e-3)


def test_internal_replay_costs_everything():
    assert relative_cost([1.0, 0.0, 0.0], THREE[0]) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda each: sum(each) > 0.1), st.integers(0, 300))
def test_every_sample_enters_once_and_shares_are_rounded_up_from_the_shallowest(scores, samples):
    shares = [score / sum(scores) for score in scores]
    counts = split(shares, samples)
    assert sum(counts) == samples
    for level, (share, count) in enumerate(zip(shares, counts, strict=True)):
        left = samples - sum(counts[:level])
        assert count == left or share * samples - 1e-6 <= count < share * samples + 1


def test_a_batch_is_split_as_by_hand():
    assert split([0.03, 0.044, 0.926], 32) == [1, 2, 29]
    assert split([0.3, 0.5, 0.2], 10) == [3, 5, 2]
    assert split([0.5, 0.5, 0.0], 3) == [2, 1, 0]


@pytest.mark.parametrize("shares", [[0.5, 0.4], [0.5, 0.25, 0.25], [1.5, -0.5]])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ConfigurationError, match=r"frequencies is .*; give one share of at least 0 for each of the 2"):
        check_frequencies(shares, 2, "frequencies")


@pytest.mark.parametrize("rule", ["total_weights", "cumulative_weights"])
def test_levels_without_weights_between_them_are_refused(rule):
    with pytest.raises(ConfigurationError, match="none between level 1 and the next"):
        frequencies(rule, [10, 0, 5], [3, 2, 2])
