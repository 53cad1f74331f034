import copy

import pytest
import torch
from torch import nn

from cl_ac.backbones.vit import MLP, ViT
from cl_ac.efficiency.budget import THRESHOLDS, costs_by_threshold, tau_for_budget
from cl_ac.efficiency.convert import Conversion, convert
from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.network import ExitNetwork

IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def networks():
    """Converted networks of one and of three blocks."""

    def make(depth: int) -> ExitNetwork:
        torch.manual_seed(0)
        network = ExitNetwork(ViT((1, 8, 8), width=16, depth=depth, heads=2))
        network.grow(3, 0)
        settings = Conversion(4, router_width=8, tokens=408, router_training=RouterTraining(2, 64))
        return convert(network.eval(), [IMAGES], settings)

    return {depth: make(depth) for depth in (1, 3)}


def cost_at(network: ExitNetwork, tau: float) -> float:
    set_gate(network, Gate("max", tau))
    with recording(network) as recordings, torch.no_grad():
        network(IMAGES)
    return relative_ffn_cost(network, recordings)


def test_one_histogram_tells_the_cost_at_every_threshold(networks):
    network = copy.deepcopy(networks[1])
    set_gate(network, Gate("max", 0.0))
    (costs,) = costs_by_threshold(network, IMAGES.split(10)).values()
    for index in (0, 1200, 2000, 2300, 2400):
        # A ratio and a product of fp32 numbers may round to different sides of a threshold.
        assert costs[index].item() == pytest.approx(cost_at(network, THRESHOLDS[index].item()), abs=2e-3)
    assert (costs.diff() <= 0).all()


def test_costs_of_ffns_add_up_to_that_of_the_model(networks):
    network = copy.deepcopy(networks[3])
    set_gate(network, Gate("max", 0.0))
    costs = costs_by_threshold(network, IMAGES.split(10))
    assert list(costs) == list(dynamic_ffns(network))
    assert sum(each[0] for each in costs.values()).item() == pytest.approx(cost_at(network, 0.0), abs=2e-3)


@pytest.mark.parametrize("options", [{"bundle": 4}, {"router": "similarity"}, {"router": "moefication"}])
def test_bundles_and_predictions_of_any_sign_are_counted_as_they_run(options):
    torch.manual_seed(0)
    model = nn.Sequential(MLP(8, 32, "relu")).eval()
    tokens = torch.randn(300, 8, generator=torch.Generator().manual_seed(1)) - 0.5
    quick = {"size": 2, "router_width": 4, "tokens": 300, "router_training": RouterTraining(2)}
    settings = Conversion(**quick, **options)
    made = convert(model, [tokens], settings)
    set_gate(made, Gate("max", 0.0))
    (costs,) = costs_by_threshold(made, [tokens]).values()
    for index in (0, 1600, 2200, 2350, 2400):
        set_gate(made, Gate("max", THRESHOLDS[index].item()))
        with recording(made) as recordings, torch.no_grad():
            made(tokens)
        assert costs[index].item() == pytest.approx(relative_ffn_cost(made, recordings), abs=2e-3)


def test_batches_may_be_keyword_arguments():
    torch.manual_seed(0)
    model = nn.Sequential(MLP(4, 8)).eval()
    settings = Conversion(size=2, router_width=2, tokens=20, router_training=RouterTraining(1))
    made = convert(model, [{"input": torch.randn(20, 4)}], settings)
    assert tau_for_budget(made, [{"input": torch.randn(20, 4)}], 5.0) == THRESHOLDS[0]
    with pytest.raises(ConfigurationError, match="there are no inputs to find a threshold on"):
        tau_for_budget(made, [], 5.0)


@pytest.mark.parametrize("budget", [0.4, 0.7, 2.0])
def test_a_budget_is_kept_and_used(networks, budget):
    network = copy.deepcopy(networks[3])
    tau = tau_for_budget(network, IMAGES.split(10), budget)
    assert {ffn.gate for ffn in dynamic_ffns(network).values()} == {Gate("max", tau)}
    spent = cost_at(network, tau)
    if budget > 1:
        assert tau == THRESHOLDS[0]
    else:
        assert spent == pytest.approx(budget, abs=0.03)


def test_a_budget_below_one_expert_is_one_sentence(networks):
    with pytest.raises(UserError, match=r"the budget is 0\.01; the cheapest that these experts can do is"):
        tau_for_budget(copy.deepcopy(networks[1]), [IMAGES], 0.01)


def test_inputs_that_can_be_read_only_once_are_refused(networks):
    with pytest.raises(ConfigurationError, match="only once"):
        tau_for_budget(networks[1], iter([IMAGES]), 0.5)
