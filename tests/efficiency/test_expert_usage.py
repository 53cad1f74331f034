import pytest
import torch

from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.expert_usage import expert_usage, neuron_sparsity
from cl_ac.efficiency.gates import Gate

IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_loads_and_masks_are_what_the_gates_decide(converted):
    network = converted.dynamic
    set_gate(network, Gate("top_k", 2))
    usage = expert_usage(network, IMAGES, IMAGES[:3])
    assert set(usage.masks) == set(usage.load) == set(dynamic_ffns(network))
    with recording(network) as recordings:
        network(IMAGES)
    for name, load in usage.load.items():
        assert load.sum().item() == pytest.approx(2)
        expected = recordings[name].mask.view(5, 5, 8)
        torch.testing.assert_close(load, expected.float().mean((0, 1)))
        assert torch.equal(usage.masks[name], expected[:3])


def test_sparsity_of_neurons_by_hand(vit_run, converted):
    network = converted.run.network
    counts = neuron_sparsity(network, IMAGES)
    block = network.backbone.stages[1]
    hidden = block.mlp.activation(block.mlp.up(block.norm2(_after_attention(network, block))))
    found = counts["backbone.stages.1.mlp"]
    assert found.tokens == 25
    assert found.below[0] == pytest.approx((hidden.abs() < hidden.abs().amax(-1, True) / 10).double().mean().item())
    assert not any(layer._forward_hooks for layer in network.modules())


def _after_attention(network, block):
    tokens = network.backbone.stages[0](IMAGES)
    return tokens + block.attention(block.norm1(tokens))
