import math
from collections.abc import Sequence

import pytest
import torch

from cl_ac.efficiency.dynamic import recording, set_gate
from cl_ac.efficiency.gates import Gate
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.exits.cost import counted, exit_costs
from cl_ac.exits.rules import Confidence, decide
from cl_ac.serving.finished import finished
from cl_ac.serving.operating_points import Chosen, CostedAnswers, Point, chosen, frontier, sample_costs
from cl_ac.serving.paired_loss import loss_bound


def test_costs_of_samples_add_up_to_what_a_counter_sees(vit_run, converted):
    run, network = finished(vit_run, "cpu"), converted.dynamic
    set_gate(network, Gate("max", 0.4))
    images = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    base = exit_costs(run.network)
    with recording(network) as recordings, torch.no_grad():
        network(images)
    costs = sample_costs(network, recordings, base, len(images)) * base.plain
    for exit_index in range(3):
        for image, cost in zip(images, costs[exit_index], strict=True):

            def up_to_exit(hidden: torch.Tensor = image[None], last: int = exit_index) -> None:
                for index in range(last + 1):
                    hidden = network.segment(index, hidden)
                    network.heads[index](hidden)

            assert counted(up_to_exit)[0] == pytest.approx(cost.item())


def answers(right: Sequence[bool], cost: float, risk: float = 0.1) -> CostedAnswers:
    """One exit that is right on these samples, with probability 1 − `risk` of its answer."""
    targets = torch.zeros(len(right), dtype=torch.int64)
    logits = torch.tensor([[1.0, 0.0] if each else [0.0, 1.0] for each in right]) * math.log((1 - risk) / risk)
    outputs = Outputs(logits[None], targets, targets, (2,), ExitCosts([cost], 1.0))
    return CostedAnswers(outputs, torch.full((1, len(right)), cost, dtype=torch.float64))


def point(tau: float, lost: int, cost: float, risk: float, samples: int = 300) -> Point:
    """Wrong on the first `lost` held-out samples; on training samples all right, with some `risk`."""
    held_out = answers([index >= lost for index in range(samples)], cost)
    test, training = answers([True, True, False, True], cost), answers([True] * 10, cost, risk)
    return Point(Gate("max", tau), Gate("max", tau), cost, test, held_out, training)


EVERYTHING = torch.ones(300, dtype=torch.bool)


def test_candidates_are_tried_from_the_surest_until_one_may_lose_too_much():
    """Bounds of 1, 4 and 9 of 300 lost: 1.5, 3.0 and 5.0 %. What comes after the third is not looked at, and the second
    is chosen although the last, by chance, loses nothing."""
    points = [point(0.4, 0, 0.3, 0.4), point(0.2, 4, 0.6, 0.2), point(0.3, 9, 0.4, 0.3), point(0.1, 1, 0.9, 0.1)]
    found = chosen(points, EVERYTHING, 0.035)
    assert (found.choice.tau, found.choice.lost, found.choice.won, found.choice.samples) == (0.2, 4, 0, 300)
    assert found.choice.bound == pytest.approx(loss_bound(4, 0, 300))
    assert (found.choice.accuracy, found.choice.cost) == (0.75, pytest.approx(0.6))
    assert (found.refused.tau, found.refused.lost) == (0.3, 9)
    assert chosen(points, EVERYTHING, 0.01) == Chosen(None, chosen(points, EVERYTHING, 0.01).refused)
    assert chosen(points, EVERYTHING, 0.01).refused.tau == 0.1
    assert chosen(points, EVERYTHING, 0.06) == Chosen(chosen(points, EVERYTHING, 0.06).choice, None)
    assert chosen(points, EVERYTHING, 0.06).choice.tau == 0.4


def test_samples_that_only_the_candidate_gets_right_count_in_its_favour():
    reference = EVERYTHING.clone()
    reference[-3:] = False
    (only,) = (point(0.1, 4, 0.5, 0.1),)
    choice = chosen([only], reference, 0.03).choice
    assert (choice.lost, choice.won) == (4, 3)
    assert choice.bound == pytest.approx(loss_bound(4, 3, 300))


def test_what_is_dearer_and_less_sure_is_no_candidate():
    points = [point(0.1, 0, 0.9, 0.1), point(0.2, 0, 0.95, 0.2), point(0.3, 0, 0.5, 0.3), point(0.4, 0, 0.5, 0.35)]
    assert [each.gate.threshold for each, _ in frontier(points)] == [0.1, 0.3]


def test_early_exits_are_candidates_too(converted):
    candidates = list(frontier(converted.points))
    costs = [each.training.at(confidence)[1] for each, confidence in candidates]
    assert costs == sorted(costs, reverse=True)
    assert len({confidence for _, confidence in candidates}) > 5


def test_risk_is_the_mean_probability_of_wrong_classes_where_samples_leave():
    """Two exits of three samples, worked by hand: at 0.75 the first leaves early, the others at the end."""
    right = torch.tensor([[0.8, 0.3, 0.6], [0.9, 0.7, 0.55]])
    logits = torch.stack([right, 1 - right], -1).log()
    targets = torch.zeros(3, dtype=torch.int64)
    costs = torch.tensor([[0.5, 0.5, 0.4], [1.0, 1.0, 0.8]], dtype=torch.float64)
    given = CostedAnswers(Outputs(logits, targets, targets, (2,), ExitCosts([0.5, 1.0], 1.0)), costs)
    thresholds, cost, risk = given.risks()
    place = (thresholds - 0.8).abs().argmin()
    assert thresholds[place].item() == pytest.approx(0.8)
    assert cost[place].item() == pytest.approx((0.5 + 1.0 + 0.8) / 3)
    assert risk[place].item() == pytest.approx((0.2 + 0.3 + 0.45) / 3)


def test_fewer_experts_cost_less(converted):
    costs = [each.ffn_cost for each in converted.points]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.5


def test_the_choice_does_on_test_samples_what_it_says(converted):
    choice = converted.choice
    (picked,) = (each for each in converted.points if each.gate.threshold == choice.tau)
    decision = decide(Confidence(choice.confidence), picked.test.outputs)
    assert choice.accuracy == pytest.approx(
        (decision.predictions == picked.test.outputs.targets).double().mean().item()
    )


def test_patient_samples_follow_their_most_confident_exit(converted):
    test = converted.original.test
    decision = decide(Confidence(torch.inf), test.outputs)
    assert torch.equal(test.right(), decision.predictions == test.outputs.targets)
