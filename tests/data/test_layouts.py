"""What the axes of a stage's output mean, and that heads, prototypes and distilled maps follow it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl_ac.backbones.wrapped import TimmModel, TorchvisionModel, WrappedModel
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.data.layouts import read, read_shape
from cl_ac.errors import ConfigurationError
from cl_ac.exits.heads import inference_head
from cl_ac.network import Backbone, ExitNetwork, Exits


class LastChannels(nn.Module):
    """Maps [height, width, channels] of which only the linear layer tells where the channels stand."""

    def __init__(self, square: bool = False):
        super().__init__()
        self.mix = nn.Linear(1, 6 if square else 3)

    def forward(self, images):
        return self.mix(images.permute(0, 2, 3, 1))


class Pooled(nn.Module):
    def forward(self, hidden):
        return hidden.mean((1, 2))


def _backbone(layouts=None, **options) -> Backbone:
    return Backbone((1, 6, 6), {"maps": LastChannels(**options), "pool": Pooled()}, layouts)


@pytest.fixture
def images():
    return torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_everything_that_reads_a_map_with_channels_last_pools_places(images):
    network = ExitNetwork(_backbone(), Exits(["maps"], [0.5])).eval()
    network.grow(2, 0)
    hidden = network.hidden(images)
    moved = hidden[0].permute(0, 3, 1, 2)  # [B, channels, height, width]
    assert network.stage_layouts == ["channels_last", "vector"]
    assert torch.equal(network.heads[0].pooling(hidden[0])[0], F.max_pool2d(moved, 2).flatten(1))
    assert torch.equal(network.maps_below(network.stage_outputs(images))[0][0], moved)
    vector = NearestMean(side=3).features(network, images)[0]
    assert torch.equal(vector, F.adaptive_avg_pool2d(moved, 3).flatten(1))
    for count in (2, 8):
        fast = inference_head(network.heads[0])(hidden[0][:count])
        assert torch.allclose(fast, network.heads[0](hidden[0][:count]), atol=1e-6)


def test_tokens_without_a_class_token_are_averaged():
    stages = {"tokens": nn.Sequential(nn.Flatten(2), nn.Linear(36, 5)), "flat": nn.Flatten()}
    backbone = Backbone((3, 6, 6), stages, {"tokens": "tokens"})
    network = ExitNetwork(backbone, Exits(["tokens"], [0.5])).eval()
    network.grow(2, 0)
    images = torch.randn(2, 3, 6, 6)
    hidden = network.hidden(images)
    mean = F.layer_norm(hidden[0].mean(1), (5,))
    assert torch.allclose(network.read(hidden)[0], mean)
    assert torch.allclose(NearestMean().features(network, images)[0], mean)


def test_what_a_backbone_says_wins_and_must_fit():
    assert _backbone({"maps": "channels_first"}).layouts()[0] == "channels_first"
    with pytest.raises(ConfigurationError, match=r"'maps' is 'tokens', which has 2 axes.*\(6, 6, 3\)"):
        _backbone({"maps": "tokens"}).layouts()
    with pytest.raises(ConfigurationError, match="unknown layout of the stage 'maps' 'last'"):
        _backbone({"maps": "last"}).layouts()
    with pytest.raises(ConfigurationError, match="unknown stage in layouts 'map'"):
        _backbone({"map": "channels_last"}).layouts()


@pytest.mark.parametrize(
    ("model", "stages", "expected"),
    [
        ("swin_t", ["features.0", "features.1", "features.3"], ["channels_last"] * 3),
        ("convnext_tiny", ["features.1"], ["channels_first"]),
        ("shufflenet_v2_x0_5", ["conv1", "stage2.1"], ["channels_first"] * 2),
    ],
)
def test_layouts_of_torchvision_models(model, stages, expected):
    backbone = TorchvisionModel((3, 32, 32), model, stages)
    assert backbone.layouts() == [*expected, "vector"]


@pytest.mark.parametrize(
    ("model", "expected"), [("vit_tiny_patch16_224", "class_token"), ("vit_base_patch16_gap_224", "tokens")]
)
def test_layouts_of_timm_models(model, expected):
    pytest.importorskip("timm")
    backbone = TimmModel((3, 32, 32), model, ["blocks.0"], options={"img_size": 32, "depth": 2})
    assert backbone.layouts() == [expected, "vector"]


class Unclear(nn.Module):
    """Its tokens become one vector by their maximum."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(16, 4), nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.embed(images.flatten(2)).amax(1))


def test_what_cannot_be_known_is_asked_for(monkeypatch):
    monkeypatch.setattr(nn, "Unclear", Unclear, raising=False)
    path = "torch.nn.Unclear"
    exits = Exits(["embed"], [0.5])
    with pytest.raises(ConfigurationError, match=r"AC at 'embed'.*\(3, 4\).*backbone\.layouts: class_token, tokens"):
        ExitNetwork(WrappedModel((3, 4, 4), path, ["embed"]), exits)
    told = WrappedModel((3, 4, 4), path, ["embed"], layouts={"embed": "tokens"})
    assert ExitNetwork(told, exits).heads[0].layout == "tokens"


def test_patches_are_the_square_behind_other_tokens():
    hidden = torch.randn(2, 3 * 3 + 2, 5)
    patches = hidden[:, 2:]
    assert torch.equal(read(hidden, "patches"), patches.mean(1, keepdim=True))
    there = read(hidden, "patch_map")  # [B, D, height, width]
    assert torch.equal(there[:, :, 1, 2], patches[:, 1 * 3 + 2])
    assert read_shape((11, 5), "patch_map") == (5, 3, 3)
    assert read_shape((9, 5), "patches") == (1, 5)


@pytest.mark.parametrize(("tokens", "features"), [("class", 5), ("mean", 5), ("patches", 5), ("map", 20)])
def test_exits_read_tokens_as_they_are_told(tokens, features):
    backbone = Backbone((1, 5, 2), {"tokens": nn.Sequential(nn.Flatten(1, 2), nn.Linear(2, 5)), "flat": nn.Flatten()})
    network = ExitNetwork(backbone, Exits(["tokens"], [0.5], tokens=tokens)).eval()
    network.grow(2, 0)
    images = torch.randn(3, 1, 5, 2)
    hidden = network.hidden(images)[0]
    assert network.heads[0].classifier.in_features == features // (4 if tokens == "map" else 1)
    expected = {"class": hidden[:, 0], "mean": hidden.mean(1), "patches": hidden[:, 1:].mean(1)}
    if tokens in expected:
        assert torch.allclose(network.features(images)[0], F.layer_norm(expected[tokens], (5,)))
        assert torch.allclose(NearestMean().features(network, images)[0], network.features(images)[0])
    else:
        square = hidden[:, 1:].transpose(1, 2).reshape(3, 5, 2, 2)
        assert torch.equal(NearestMean(side=2).features(network, images)[0], square.flatten(1))
        assert torch.equal(network.heads[0].pooling(hidden)[0], square.amax((2, 3)))
    assert torch.allclose(inference_head(network.heads[0])(hidden), network.heads[0](hidden), atol=1e-6)


def test_tokens_that_are_no_square_have_no_patches():
    backbone = Backbone((1, 24, 2), {"tokens": nn.Sequential(nn.Flatten(1, 2), nn.Linear(2, 5)), "flat": nn.Flatten()})
    ExitNetwork(backbone, Exits(["tokens"], [0.5], tokens="patches"))
    backbone.image_shape = (1, 35, 2)
    ExitNetwork(backbone, Exits(["tokens"], [0.5], tokens="patches"))
    backbone.image_shape = (1, 360, 2)
    with pytest.raises(ConfigurationError, match="the 360 tokens of the stage 'tokens' hold no square"):
        ExitNetwork(backbone, Exits(["tokens"], [0.5], tokens="patches"))
    ExitNetwork(backbone, Exits(["tokens"], [0.5], tokens="mean"))
