"""Mixes of each sample's own: the same as merging the weights for one sample after the other."""

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.bank import banks, use
from cl_ac.tuning.low_rank import add_low_rank
from cl_ac.tuning.sample_mixes import mixed_by_sample

WEIGHTS = torch.tensor([[0.3, 0.7], [0.0, 0.0], [1.0, 0.0]])


class Padding(nn.Conv2d):
    """Pads by itself, as convolutions ported from TensorFlow do."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(images, (0, 1, 0, 1))
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


def convolutions() -> Backbone:
    layers = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.ReLU(), Padding(6, 6, 2, groups=6), nn.ReLU())
    return Backbone((1, 8, 8), {"stem": nn.Conv2d(1, 4, 1), "layers": layers, "flat": nn.Flatten()})


def outputs(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        for stage in backbone.stages:
            images = stage(images)
    return images


@pytest.mark.parametrize(("name", "names"), [("ViT", ["query", "value", "mlp.up"]), ("timm", None), ("own", None)])
def test_each_sample_has_the_answer_of_its_merged_weights(frozen_backbone, perturb, name, names):
    backbone = convolutions() if name == "own" else frozen_backbone(name)
    backbone.freeze("all")
    backbone.eval()
    add_low_rank(backbone, rank=2, alpha=3, names=names)
    perturb(backbone)
    for bank in banks(backbone):
        bank.add()
    perturb(backbone)
    images = torch.randn(3, *backbone.image_shape, generator=torch.Generator().manual_seed(0))
    with mixed_by_sample(backbone, WEIGHTS):
        together = outputs(backbone, images)
    for image, answer, row in zip(images.split(1), together, WEIGHTS, strict=True):
        use(backbone, {index: weight for index, weight in enumerate(row.tolist()) if weight})
        torch.testing.assert_close(answer[None], outputs(backbone, image))
    use(backbone, {1: 1.0})
    with mixed_by_sample(backbone, WEIGHTS):
        pass
    assert all(bank.mix == {1: 1.0} for bank in banks(backbone))


def test_weights_that_nobody_calls_are_refused():
    attention = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    backbone = Backbone((1, 2, 8), {"block": attention})
    add_low_rank(backbone, names=["self_attn.out_proj"])
    told = r"'stages.0.self_attn.out_proj' .*is read by attention without a call"
    with pytest.raises(ConfigurationError, match=told), mixed_by_sample(backbone, WEIGHTS):
        pass
