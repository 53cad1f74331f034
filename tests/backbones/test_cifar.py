"""The backbones for small images: parameters, placements and costs of the AC paper."""

import pytest
import torch
from torch import nn

from cl_ac.backbones.resnet import ResNet32
from cl_ac.backbones.small import SmallConvNet
from cl_ac.backbones.vgg import VGG19
from cl_ac.backbones.wide_resnet import WideResNet16
from cl_ac.errors import ConfigurationError
from cl_ac.exits.cost import exit_costs
from cl_ac.network import Backbone, ExitNetwork

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("backbone", "parameters", "features"),
    [(ResNet32, 466_256, 64), (WideResNet16, 690_384, 128), (VGG19, 38_917_952, 4096)],
)
def test_size(backbone, parameters, features):
    with torch.random.fork_rng():
        network = backbone(SHAPE)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.shapes()[-1] == (features,)


@pytest.mark.parametrize(
    ("build", "preset", "published"),
    [
        (ResNet32, "sdn", [0.22, 0.365, 0.491, 0.631, 0.753, 0.891, 1.027]),
        (ResNet32, "sparse", [0.22, 0.483, 0.742, 1.013]),
        (WideResNet16, "sdn", [0.153, 0.342, 0.489, 0.677, 0.822, 1.009]),
        (VGG19, "small", [0.232, 0.548, 0.865, 0.955, 0.961, 1.002, 1.003]),
    ],
)
def test_cost_is_near_the_published_one(build, preset, published):
    """Ours reads both poolings with the classifier, so its heads cost twice: up to 0.015 more."""
    backbone = build(SHAPE)
    network = ExitNetwork(backbone, backbone.exits(preset))
    for _ in range(10):
        network.grow(10, 0)
    assert exit_costs(network).relative == pytest.approx(published, abs=0.015)


@pytest.mark.parametrize(("build", "presets"), [(ResNet32, "sdn sparse dense"), (VGG19, "small medium dense")])
def test_presets_fit_the_stages(build, presets):
    backbone = build(SHAPE)
    for preset in presets.split():
        exits = backbone.exits(preset)
        positions = [backbone.stage_names.index(name) for name in exits.at]
        assert positions == sorted(positions)
        assert exits.weights == sorted(exits.weights)


def test_maps_below_the_exits_of_resnet32():
    backbone = ResNet32(SHAPE, width=2)
    network = ExitNetwork(backbone, backbone.exits("sdn"))
    maps = network.maps_below(network.stage_outputs(torch.randn(1, *SHAPE)))
    sides = [[value.shape[-1] for value in below] for below in maps]
    assert sides == [[32], [32], [32, 16], [32, 16], [32, 16, 8], [32, 16, 8], [32, 16, 8]]


def test_without_the_last_rectifier_features_are_signed():
    images = torch.randn(8, *SHAPE)
    for last_relu in (True, False):
        maps = ExitNetwork(ResNet32(SHAPE, width=2, last_relu=last_relu)).stage_outputs(images)
        assert (maps[-2] < 0).any() == (not last_relu)
        assert (maps[-3] >= 0).all()


@pytest.mark.parametrize("build", [ResNet32, WideResNet16, VGG19, SmallConvNet])
def test_no_stage_overwrites_what_an_exit_reads(build):
    backbone = build(SHAPE).eval()
    hidden = torch.randn(2, *SHAPE)
    for stage in backbone.stages:
        before = hidden.clone()
        output = stage(hidden)
        assert torch.equal(hidden, before)
        hidden = output


def test_images_that_are_too_small_are_one_sentence():
    with pytest.raises(ConfigurationError, match=r"VGG19 .* 16 × 32; they must have at least 32 × 32 pixels"):
        VGG19((3, 16, 32))
    narrow = Backbone((1, 2, 2), {"conv": nn.Conv2d(1, 2, 3), "flat": nn.Flatten()})
    with pytest.raises(ConfigurationError, match=r"Backbone cannot read images of \(1, 2, 2\): its stage 'conv' fails"):
        ExitNetwork(narrow)
