import copy

import pytest
import torch

from cl_ac.backbones.vit import ViT
from cl_ac.efficiency.budget import THRESHOLDS, cost_by_threshold, tau_for_budget
from cl_ac.efficiency.convert import Conversion, convert
from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.errors import UserError
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
    costs = cost_by_threshold(network, IMAGES.split(10))
    for index in (0, 1200, 2000, 2300, 2400):
        # A ratio and a product of fp32 numbers may round to different sides of a threshold.
        assert costs[index].item() == pytest.approx(cost_at(network, THRESHOLDS[index].item()), abs=2e-3)
    assert (costs.diff() <= 0).all()


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
