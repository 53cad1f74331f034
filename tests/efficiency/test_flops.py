import pytest
import torch
from torch import nn

from cl_ac.backbones.vit import ViT
from cl_ac.efficiency.convert import Conversion, convert
from cl_ac.efficiency.dynamic import DynamicFFN, recording, set_gate
from cl_ac.efficiency.flops import layer_cost, relative_cost, relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import NormRouter, RouterTraining
from cl_ac.exits.cost import counted
from cl_ac.kernels.experts import Experts
from cl_ac.network import ExitNetwork


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def some_ffn(gated: bool = False, **options) -> DynamicFFN:
    def weight() -> torch.Tensor:
        return torch.randn(8, 4, 6, generator=stream())

    experts = Experts(weight(), weight(), "relu", gate=weight() if gated else None)
    return DynamicFFN(experts, NormRouter(6, 8, 5, 2, stream()), **options)


X = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("gated", [False, True])
def test_counted_work_is_the_closed_form(gated, backend):
    ffn = some_ffn(gated, backend=backend)
    ffn.gate = Gate("max", 0.6)
    with recording(ffn) as recordings:
        macs, _ = counted(lambda: ffn(X))
    pairs, matrices = recordings[""].counts[0].sum().item(), 3 if gated else 2
    assert 14 < pairs < 14 * 8
    assert macs == pairs * matrices * 6 * 4 + 14 * (6 * 5 + 5 * 8)
    closed = relative_cost(pairs / (14 * 8), 6, 32, 8, 5, matrices)
    assert macs / (14 * matrices * 6 * 32) == pytest.approx(closed)
    assert relative_ffn_cost(ffn, recordings) == pytest.approx(closed)
    assert layer_cost(ffn) == (matrices * 6 * 32, matrices * 6 * 4, 70)


@pytest.mark.parametrize("union", [False, True])
def test_bundles_are_counted_with_their_idle_members(union):
    ffn = some_ffn(bundle=2, union=union, gate=Gate("top_k", 1))
    with recording(ffn) as recordings:
        macs, _ = counted(lambda: ffn(X))
    assert macs == 14 * (2 * 2 * 6 * 4 + 70)
    assert layer_cost(ffn).of(recordings[""].counts[0].double()).sum() == macs


def test_a_whole_network_is_its_dense_cost_with_the_ffns_exchanged():
    torch.manual_seed(0)
    backbone = ViT((1, 8, 8), width=8, depth=2, heads=2)
    network = ExitNetwork(backbone, backbone.exits("ln"))
    network.grow(3, 0)
    network.eval()
    images = torch.randn(4, 1, 8, 8)
    settings = Conversion(5, router_width=3, tokens=64, router_training=RouterTraining(1))
    model = convert(network, [images], settings)
    set_gate(model, Gate("top_k", 2))
    with recording(model) as recordings:
        macs, _ = counted(lambda: model(images))
    tokens = 4 * 17
    dense_ffns, experts = 2 * tokens * 2 * 8 * 32, 2 * tokens * (2 * 2 * 8 * 5 + 3 * (8 + 7))
    assert macs == counted(lambda: network(images))[0] - dense_ffns + experts
    assert relative_ffn_cost(model, recordings) == pytest.approx(experts / dense_ffns)


def test_nothing_converted_costs_what_it_did():
    assert relative_ffn_cost(nn.Linear(2, 2), {}) == 1
