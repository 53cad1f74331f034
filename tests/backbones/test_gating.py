"""Gates close units exactly, and it is known which parameters lead between open ones."""

import pytest
import torch
from torch import nn

from cl_ac.backbones.gating import Gate, gates, make_gated, parameters_between, split_units
from cl_ac.backbones.resnet import BasicBlock, ResNet32
from cl_ac.backbones.vit import ViT
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone


class Residual(Backbone):
    """A convolution, a residual block whose shortcut is the identity, and a linear layer."""

    def __init__(self):
        stages = {
            "stem": nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()),
            "block": BasicBlock(2, 2, 1),
            "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3), nn.ReLU()),
        }
        super().__init__((1, 4, 4), stages)


@pytest.fixture
def backbone():
    with global_stream(0, "backbone"):
        made = Residual()
    make_gated(made)
    return made.eval()


def run(backbone, images):
    for stage in backbone.stages:
        images = stage(images)
    return images


def test_open_gates_change_nothing(backbone):
    with global_stream(0, "backbone"):
        plain = Residual().eval()
    images = torch.randn(3, 1, 4, 4)
    assert torch.equal(run(backbone, images), run(plain, images))


def test_there_is_one_gate_for_each_layer_behind_its_batch_norm(backbone):
    assert [len(gate.value) for gate in gates(backbone).values()] == [2, 2, 2, 3]
    block = backbone.stages[1]
    assert isinstance(block.conv1, nn.Conv2d)
    assert isinstance(block.norm1[1], Gate)


def test_parameters_between_units_by_hand(backbone):
    # Of the stem unit 0, of the block's inner units 1, of its outer ones none, of the linear layer 0 and 2.
    units = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0, 1], dtype=torch.bool)
    between = parameters_between(backbone, units)
    assert between["stages.0.0.0.weight"].flatten(1).all(1).tolist() == [True, False]
    assert between["stages.0.0.0.bias"].tolist() == [True, False]
    # Inner unit 1 reads the stem's unit 0 alone.
    inner = between["stages.1.conv1.weight"].flatten(2)
    assert inner.all(2).tolist() == [[False, False], [True, False]]
    assert between["stages.1.norm1.0.weight"].tolist() == [False, True]
    assert not between["stages.1.conv2.weight"].any()
    # The sum of the closed block and its shortcut: unit 0 of the stem.
    assert between["stages.2.2.0.weight"].tolist() == [[True, False], [False, False], [True, False]]


def test_what_leads_elsewhere_may_change_without_a_trace(backbone):
    units = torch.rand(9, generator=torch.Generator().manual_seed(2)) < 0.6
    between = parameters_between(backbone, units)
    for gate, part in zip(gates(backbone).values(), split_units(backbone, units).values(), strict=True):
        gate.value = part.float()
    images = torch.randn(3, 1, 4, 4)
    before = run(backbone, images)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            parameter += torch.randn(parameter.shape) * ~between[name]
    assert torch.equal(run(backbone, images), before)


def test_convolutions_in_groups_read_their_own_channels():
    class Grouped(Backbone):
        def __init__(self):
            layers = [
                nn.Conv2d(1, 4, 1),
                nn.Conv2d(4, 4, 3, padding=1, groups=2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            ]
            super().__init__((1, 4, 4), {"all": nn.Sequential(*layers)})

    backbone = Grouped()
    make_gated(backbone)
    units = torch.tensor([1, 0, 0, 0, 1, 1, 1, 1], dtype=torch.bool)
    weight = parameters_between(backbone, units)["stages.0.1.0.weight"].flatten(2).all(2)
    assert weight.tolist() == [[True, False], [True, False], [False, False], [False, False]]


def test_a_residual_network_of_the_papers_can_be_gated():
    backbone = ResNet32((3, 8, 8), width=4)
    make_gated(backbone)
    count = sum(len(gate.value) for gate in gates(backbone).values())
    between = parameters_between(backbone, torch.ones(count, dtype=torch.bool))
    assert all(mask.all() for mask in between.values())


def test_layers_that_mix_units_are_refused():
    with pytest.raises(ConfigurationError, match="cannot be gated, since"):
        make_gated(ViT((1, 8, 8), patch=4, width=8, depth=1, heads=2))
