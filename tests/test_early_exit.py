import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.early_exit import accuracy_at_budgets, confidence_exit, cost_accuracy, cost_at_accuracy
from cl_ac.evaluation import Outputs
from cl_ac.network import Cost


def random_outputs(seed: int, exits: int, samples: int, classes: int = 4) -> Outputs:
    stream = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(exits, samples, classes, generator=stream)
    targets = torch.randint(classes, (samples,), generator=stream)
    costs = (10.0 * torch.arange(1, exits + 1)).tolist()
    return Outputs(logits, targets, torch.zeros(samples, dtype=torch.int64), (classes,), Cost(costs, 10.0 * exits - 3))


def walk(outputs: Outputs, threshold: float) -> tuple[float, float]:
    """Accuracy and relative cost, sample by sample: the definition."""
    right = cost = 0.0
    exits, samples = outputs.confidences.shape
    for sample in range(samples):
        confidences = outputs.confidences[:, sample].tolist()
        taken = next((i for i, confidence in enumerate(confidences) if confidence >= threshold), None)
        answer = confidences.index(max(confidences)) if taken is None else taken
        right += float(outputs.predictions[answer, sample] == outputs.targets[sample])
        cost += outputs.cost.relative[exits - 1 if taken is None else taken]
    return right / samples, cost / samples


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 30))
def test_curve_equals_walking_through_the_exits(seed, exits, samples):
    outputs = random_outputs(seed, exits, samples)
    thresholds = torch.tensor([0.0, 0.3, 0.5, 0.8, 0.95, 1.0, 1.1], dtype=torch.float64)
    curve = cost_accuracy(outputs, thresholds)
    for index, threshold in enumerate(thresholds.tolist()):
        accuracy, cost = walk(outputs, threshold)
        assert curve.accuracy[index].item() == pytest.approx(accuracy)
        assert curve.cost[index].item() == pytest.approx(cost)
    torch.testing.assert_close(curve.shares.sum(1), torch.ones(len(thresholds), dtype=torch.float64))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 30))
def test_a_higher_threshold_never_exits_earlier(seed, exits, samples):
    confidences = random_outputs(seed, exits, samples).confidences
    taken = [confidence_exit(confidences, threshold) for threshold in (0.0, 0.4, 0.7, 1.0, 1.1)]
    assert taken[0].eq(0).all()
    assert taken[-1].eq(exits).all()
    assert all((later >= earlier).all() for earlier, later in zip(taken, taken[1:], strict=False))


def test_threshold_one_answers_as_the_most_confident_exit():
    outputs = random_outputs(3, 4, 200)
    curve = cost_accuracy(outputs, torch.tensor([1.0], dtype=torch.float64))
    chosen = outputs.confidences.argmax(0)
    expected = outputs.correct.gather(0, chosen[None]).double().mean()
    torch.testing.assert_close(curve.accuracy[0], expected)


def test_cost_at_accuracy_is_the_cheapest_point_that_reaches_it():
    curve = cost_accuracy(random_outputs(5, 4, 300))
    target = curve.accuracy.median().item()
    cost = cost_at_accuracy(curve, target)
    assert cost == pytest.approx(min(c for a, c in zip(curve.accuracy, curve.cost, strict=True) if a >= target).item())
    assert cost_at_accuracy(curve, 1.01) is None


def test_budgets_below_the_cheapest_exit_are_undefined():
    curve = cost_accuracy(random_outputs(5, 4, 300))
    low, all_of_it = accuracy_at_budgets(curve, [0.01, 2.0])
    assert torch.isnan(torch.tensor(low))
    assert all_of_it == pytest.approx(curve.accuracy.max().item())
