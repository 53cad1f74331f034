from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.errors import UserError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.curves import (
    PAPER_THRESHOLDS,
    Curve,
    accuracy_at_budgets,
    area,
    average_curve,
    cost_accuracy,
    cost_at_accuracy,
    exit_histogram,
    exit_points,
    oracle_curve,
    quantile_thresholds,
    rule_reaching_accuracy,
    rule_within_budget,
    task_curves,
)
from cl_ac.exits.rules import Confidence, Entropy, Margin, Patience, decide, scores

RULES = [Confidence(), Confidence(fallback="last"), Entropy(), Margin(), Patience()]


def walk(outputs: Outputs, threshold: float) -> tuple[float, float]:
    """Accuracy and relative cost of the confidence rule, sample by sample: the definition."""
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
def test_curve_equals_walking_through_the_exits(random_outputs, seed, exits, samples):
    outputs = random_outputs(seed, exits, samples)
    thresholds = torch.tensor([0.0, 0.3, 0.5, 0.8, 0.95, 1.0, 1.1], dtype=torch.float64)
    curve = cost_accuracy(outputs, thresholds=thresholds)
    for index, threshold in enumerate(thresholds.tolist()):
        accuracy, cost = walk(outputs, threshold)
        assert curve.accuracy[index].item() == pytest.approx(accuracy)
        assert curve.cost[index].item() == pytest.approx(cost)
    torch.testing.assert_close(curve.shares.sum(1), torch.ones(len(thresholds), dtype=torch.float64))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 25), st.sampled_from(RULES), st.booleans())
def test_curve_equals_deciding_at_each_threshold(random_outputs, seed, exits, samples, rule, per_exit):
    outputs = random_outputs(seed, exits, samples)
    thresholds = quantile_thresholds(scores(rule, outputs), 20, per_exit)
    curve = cost_accuracy(outputs, rule, thresholds)
    for index, threshold in enumerate(thresholds.tolist()):
        decision = decide(replace(rule, threshold=tuple(threshold) if per_exit else threshold), outputs)
        right = (decision.predictions == outputs.targets).double().mean()
        assert curve.accuracy[index].item() == pytest.approx(right.item())
        assert curve.cost[index].item() == pytest.approx(decision.cost.mean().item())
        shares = decision.exits.bincount(minlength=exits + 1) / samples
        torch.testing.assert_close(curve.shares[index], shares.double())


def test_quantiles_span_all_scores():
    values = torch.tensor([[0.2, 0.4, 0.4], [0.6, 0.8, 1.0]], dtype=torch.float64)
    pooled = quantile_thresholds(values)
    assert pooled[:-1].tolist() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert 1 < pooled[-1] < 1 + 1e-9
    assert quantile_thresholds(values, 3)[:-1].tolist() == [0.0, 0.2, 0.4, 1.0]
    per_exit = quantile_thresholds(values, per_exit=True)
    assert per_exit[1:-1].tolist() == [[0.2, 0.6], [0.4, 0.8], [0.4, 1.0]]


def test_quantiles_reach_costs_that_a_uniform_grid_skips(random_outputs):
    """Exits whose confidences all lie between two points of the grid are all or nothing on it."""
    outputs = random_outputs(1, 4, 400)
    outputs = replace(outputs, logits=outputs.logits / 10_000)
    assert len(cost_accuracy(outputs, thresholds=PAPER_THRESHOLDS).cost.unique()) == 2
    assert len(cost_accuracy(outputs).cost.unique()) > 100


def test_threshold_one_answers_as_the_most_confident_exit(random_outputs):
    outputs = random_outputs(3)
    curve = cost_accuracy(outputs, thresholds=torch.tensor([1.0], dtype=torch.float64))
    chosen = outputs.confidences.argmax(0)
    expected = outputs.correct.gather(0, chosen[None]).double().mean()
    torch.testing.assert_close(curve.accuracy[0], expected)


def test_cost_at_accuracy_is_the_cheapest_point_that_reaches_it(random_outputs):
    curve = cost_accuracy(random_outputs(5))
    target = curve.accuracy.median().item()
    cost = cost_at_accuracy(curve, target)
    assert cost == pytest.approx(min(c for a, c in zip(curve.accuracy, curve.cost, strict=True) if a >= target).item())
    assert cost_at_accuracy(curve, 1.01) is None


def test_budgets_below_the_cheapest_exit_are_undefined(random_outputs):
    curve = cost_accuracy(random_outputs(5))
    low, all_of_it = accuracy_at_budgets(curve, [0.01, 2.0])
    assert torch.isnan(torch.tensor(low))
    assert all_of_it == pytest.approx(curve.accuracy.max().item())


def test_averages_over_tasks(random_outputs):
    outputs = random_outputs(2, sizes=(1, 3))
    curves = task_curves(outputs)
    assert all(torch.equal(curve.thresholds, curves[0].thresholds) for curve in curves)
    plain, weighted = average_curve(curves), average_curve(curves, outputs.sizes)
    torch.testing.assert_close(plain.accuracy, (curves[0].accuracy + curves[1].accuracy) / 2)
    torch.testing.assert_close(weighted.cost, (curves[0].cost + 3 * curves[1].cost) / 4)
    # Weighted by samples the tasks' curves make the curve of all samples.
    counts = outputs.tasks.bincount().tolist()
    whole = cost_accuracy(outputs)
    torch.testing.assert_close(average_curve(curves, counts).accuracy, whole.accuracy)
    torch.testing.assert_close(average_curve(curves, counts).shares, whole.shares)


def test_exit_points(random_outputs):
    outputs = random_outputs(4)
    points = exit_points(outputs)
    assert points.accuracy.tolist() == pytest.approx(outputs.correct.double().mean(1).tolist())
    assert points.cost.tolist() == pytest.approx(outputs.cost.relative)


def test_oracle_by_hand():
    correct = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]])
    targets = torch.zeros(4, dtype=torch.int64)
    logits = torch.stack([correct, 1 - correct], -1).float()
    oracle = oracle_curve(Outputs(logits, targets, targets, (2,), ExitCosts([2.0, 5.0, 10.0], 10.0)))
    assert oracle.accuracy.tolist() == [0.25, 0.5, 0.75]
    assert oracle.cost.tolist() == pytest.approx([0.2, (0.2 * 3 + 0.5) / 4, (0.2 * 2 + 0.5 + 1.0) / 4])


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from(RULES))
def test_no_rule_beats_the_oracle(random_outputs, seed, exits, rule):
    outputs = random_outputs(seed, exits, 40)
    oracle, curve = oracle_curve(outputs), cost_accuracy(outputs, rule)
    bound = torch.from_numpy(np.interp(curve.cost, oracle.cost, oracle.accuracy))
    assert (curve.accuracy <= bound + 1e-9).all()


def test_area_by_hand():
    cost, accuracy = torch.tensor([0.2, 0.4, 1.0]), torch.tensor([0.5, 0.7, 0.9])
    curve = Curve(torch.arange(3), accuracy, cost, torch.empty(0))
    assert area(curve) == pytest.approx((0.2 * 0.6 + 0.6 * 0.8) / 0.8)
    assert area(Curve(torch.arange(1), accuracy[:1], cost[:1], torch.empty(0))) == pytest.approx(0.5)


@pytest.mark.parametrize("per_exit", [False, True])
def test_thresholds_are_chosen_on_held_out_samples(random_outputs, per_exit):
    held_out, test = random_outputs(1, samples=500), random_outputs(2, samples=500)
    rule = rule_within_budget(Margin(fallback="last"), held_out, 0.6, per_exit)
    assert rule.fallback == "last"
    assert decide(rule, held_out).cost.mean() <= 0.6
    # The test samples are of the same kind, but had no say.
    assert decide(rule, test).cost.mean().item() == pytest.approx(0.6, abs=0.08)
    if not per_exit:
        best = accuracy_at_budgets(cost_accuracy(held_out, rule), [0.6])[0]
        right = (decide(rule, held_out).predictions == held_out.targets).double().mean()
        assert right.item() == pytest.approx(best)
    floor = rule_reaching_accuracy(Margin(), held_out, 0.6, per_exit)
    decision = decide(floor, held_out)
    assert (decision.predictions == held_out.targets).double().mean() >= 0.6
    if not per_exit:
        assert decision.cost.mean().item() == pytest.approx(cost_at_accuracy(cost_accuracy(held_out, Margin()), 0.6))


def test_impossible_wishes_are_one_sentence(random_outputs):
    with pytest.raises(UserError, match=r"the budget is 0\.1; the cheapest .* is 0\.27"):
        rule_within_budget(Confidence(), random_outputs(1), 0.1)
    with pytest.raises(UserError, match=r"the accuracy to reach is 0\.999; the most"):
        rule_reaching_accuracy(Confidence(), random_outputs(1), 0.999)


def test_exit_histogram_of_tasks(random_outputs):
    outputs = random_outputs(1, exits=3, sizes=(2, 2))
    decision = decide(Confidence(0.6), outputs)
    shares = exit_histogram(decision, outputs.tasks, 3, 3)
    for task in (0, 1):
        mine = decision.exits[outputs.tasks == task]
        assert shares[task].tolist() == pytest.approx([(mine == i).double().mean().item() for i in range(4)])
    assert shares[2].isnan().all()


def test_costs_of_single_samples_are_paid_where_they_leave(random_outputs):
    outputs = random_outputs(3)
    costs = torch.rand(4, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    curve = cost_accuracy(outputs, costs=costs)
    paid = torch.cat([costs, costs[-1:]])
    for index in range(0, len(curve.thresholds), 97):
        decision = decide(Confidence(curve.thresholds[index].item()), outputs)
        expected = paid.gather(0, decision.exits[None]).mean().item()
        assert curve.cost[index].item() == pytest.approx(expected)
        assert curve.accuracy[index].item() == pytest.approx(
            (decision.predictions == outputs.targets).double().mean().item()
        )
    # What all samples pay alike is what the outputs' own cost says.
    alike = torch.tensor(outputs.cost.relative, dtype=torch.float64)[:, None].expand(4, 200)
    torch.testing.assert_close(cost_accuracy(outputs, costs=alike).cost, cost_accuracy(outputs).cost)
