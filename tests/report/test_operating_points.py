import pytest
import torch

from cl_ac.efficiency.dynamic import recording, set_gate
from cl_ac.efficiency.flops import count_macs
from cl_ac.efficiency.gates import Gate
from cl_ac.exit_rules import Confidence, decide
from cl_ac.report.operating_points import chosen, sample_costs
from cl_ac.serving import finished


def test_costs_of_samples_add_up_to_what_a_counter_sees(vit_run, converted):
    run, network = finished(vit_run, "cpu"), converted.dynamic
    set_gate(network, Gate("max", 0.4))
    images = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    base = run.network.cost()
    with recording(network) as recordings, torch.no_grad():
        network(images)
    costs = sample_costs(network, recordings, base, len(images)) * base.plain
    for exit_index in range(3):
        for image, cost in zip(images, costs[exit_index], strict=True):

            def up_to_exit(hidden: torch.Tensor = image[None], last: int = exit_index) -> None:
                for index in range(last + 1):
                    hidden = network.segment(index, hidden)
                    network.heads[index](hidden)

            assert count_macs(up_to_exit) == pytest.approx(cost.item())


def test_fewer_experts_cost_less_and_the_choice_is_the_cheapest_allowed(converted):
    costs = [point.ffn_cost for point in converted.points]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.5
    wanted = converted.original.patient_accuracy - 0.5
    choice = chosen(converted.points, wanted)
    assert choice == converted.choice
    allowed = [point.curve.cost[point.curve.accuracy >= wanted - 1e-9] for point in converted.points]
    assert choice.cost == pytest.approx(torch.cat(allowed).min().item())
    (point,) = (each for each in converted.points if each.gate.threshold == choice.tau)
    decision = decide(Confidence(choice.confidence), point.outputs)
    assert choice.accuracy == pytest.approx((decision.predictions == point.outputs.targets).double().mean().item())
    assert chosen(converted.points, 1.1) is None


def test_patient_samples_follow_their_most_confident_exit(converted):
    outputs = converted.original.outputs
    decision = decide(Confidence(torch.inf), outputs)
    accuracy = (decision.predictions == outputs.targets).double().mean().item()
    assert converted.original.patient_accuracy == pytest.approx(accuracy)
