import copy

import pytest
import torch
from torch import nn

from cl_ac.network import Backbone
from cl_ac.sparse_training.layers import Mask, masked_layers, put_masks


def backbone(*modules: nn.Module, **options) -> Backbone:
    stages = {f"stage{index}": module for index, module in enumerate(modules)}
    return Backbone((4, 6, 6), stages, **options)


def masked(layer: nn.Module, density: float = 0.3):
    """`layer` with a random mask."""
    put_masks(backbone(layer))
    (found,) = masked_layers(layer)
    kept = torch.rand(found.original.shape, generator=torch.Generator().manual_seed(0)) < density
    found.set(found.original.detach().clone(), kept)
    return found


OPTIMISERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=0.1, nesterov=True),
    "fused sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=0.1, fused=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.1, weight_decay=0.1, fused=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.1, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, 0.1, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: nn.Conv2d(4, 5, 3)])
def test_what_is_masked_stays_zero_at_every_step(name, make):
    torch.manual_seed(0)
    module = make()
    layer, inputs = masked(module), torch.randn(7, 4, 6, 6)
    optimizer, before = OPTIMISERS[name](module.parameters()), layer.weight.detach().clone()
    for _ in range(20):
        module(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(layer.original[~layer.mask.kept], torch.zeros(int((~layer.mask.kept).sum())))
    assert (layer.weight != before)[layer.mask.kept].all()


def test_infinite_gradients_leave_masked_weights_zero():
    layer = masked(nn.Linear(3, 3))
    layer.module(torch.full((1, 3), torch.inf)).sum().backward()
    assert torch.equal(layer.original.grad[~layer.mask.kept], torch.zeros(int((~layer.mask.kept).sum())))


def test_copies_keep_masks_of_their_own_and_states_carry_them():
    layer = masked(nn.Linear(6, 5))
    twin = copy.deepcopy(layer.module)
    (copied,) = masked_layers(twin)
    assert torch.equal(copied.weight, layer.weight)
    copied.set(torch.ones(5, 6), torch.ones(5, 6, dtype=torch.bool))
    assert not layer.mask.kept.all()
    twin.load_state_dict(layer.module.state_dict())
    assert torch.equal(copied.mask.kept, layer.mask.kept)


def test_frozen_stages_biases_norms_and_transposed_convolutions_have_no_mask():
    network = backbone(
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 6, 3, padding=1)),
        nn.Sequential(nn.Flatten(), nn.Linear(216, 5)),
        frozen="stage0",
    )
    put_masks(network)
    assert [layer.name for layer in masked_layers(network)] == ["stages.1.0", "stages.2.1"]
    put_masks(network)
    assert sum(isinstance(module, Mask) for module in network.modules()) == 2


def test_convolutions_alone():
    network = backbone(nn.Conv2d(4, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    put_masks(network, convolutions_only=True)
    assert [layer.name for layer in masked_layers(network)] == ["stages.0"]


@pytest.mark.parametrize(
    ("layer", "matrices", "centre", "fewest"),
    [
        (nn.Linear(6, 5), (1, 5, 6, 1), 0, 5),
        (nn.Conv2d(4, 6, 3), (1, 6, 4, 9), 4, 4),
        (nn.Conv2d(4, 6, (1, 5)), (1, 6, 4, 5), 2, 4),
        (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 2, 9), 4, 4),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 1, 1, 9), 4, 4),
        (nn.Conv2d(4, 8, 2, 2), (1, 8, 16, 1), 0, 8),
        (nn.MultiheadAttention(4, 2), (3, 4, 4, 1), 0, 12),
    ],
)
def test_weights_as_matrices(layer, matrices, centre, fewest):
    put_masks(backbone(layer))
    found = next(masked_layers(layer))
    assert (found.matrices, found.centre, found.fewest) == (matrices, centre, fewest)


def test_attention_computes_with_masked_projections():
    torch.manual_seed(0)
    attention, tokens = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    put_masks(backbone(attention))
    projections, out = masked_layers(attention)
    kept = torch.rand(12, 4) < 0.5
    projections.set(projections.original.detach(), kept)
    out.set(out.original.detach(), torch.eye(4).bool())
    expected = nn.MultiheadAttention(4, 2, batch_first=True)
    with torch.no_grad():
        expected.in_proj_weight.copy_(projections.weight)
        expected.in_proj_bias.copy_(attention.in_proj_bias)
        expected.out_proj.load_state_dict({"weight": out.weight, "bias": attention.out_proj.bias})
    torch.testing.assert_close(attention(tokens, tokens, tokens)[0], expected(tokens, tokens, tokens)[0])
    attention(tokens, tokens, tokens)[0].square().sum().backward()
    assert (projections.original.grad[~kept] == 0).all()
