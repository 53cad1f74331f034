"""Adapters beside convolutions: nothing at first, a second convolution when they have learned, folded without trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl_ac.backbones.parallel_adapters import adapters, add_parallel_adapters, fold_adapters
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone


def convolutions() -> Backbone:
    return Backbone(
        (1, 6, 6),
        {
            "first": nn.Conv2d(1, 4, 3, padding=1),
            "second": nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
            "small": nn.Conv2d(6, 6, 1),
            "flat": nn.Flatten(),
        },
    )


def answer(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    for stage in backbone.stages:
        images = stage(images)
    return images


def test_an_adapter_is_a_second_convolution_and_is_folded_without_trace():
    backbone, images = convolutions(), torch.randn(2, 1, 6, 6)
    before = answer(backbone, images)
    add_parallel_adapters(backbone)
    assert torch.equal(answer(backbone, images), before)
    (adapter,) = adapters(backbone)
    nn.init.normal_(adapter)
    hidden = backbone.stages[0](images)
    kernel = backbone.stages[1].parametrizations.weight.original.clone()
    beside = F.conv2d(hidden, adapter, stride=2, groups=2)
    expected = F.conv2d(hidden, kernel, backbone.stages[1].bias, 2, 1, groups=2) + beside
    torch.testing.assert_close(backbone.stages[1](hidden), expected)
    learned, centre = answer(backbone, images), adapter[:, :, 0, 0].clone()
    fold_adapters(backbone)
    assert torch.equal(answer(backbone, images), learned)
    assert not adapter.any()
    moved = backbone.stages[1].parametrizations.weight.original - kernel
    torch.testing.assert_close(moved[:, :, 1, 1], centre)
    assert moved.count_nonzero() == centre.count_nonzero()


def test_a_backbone_without_convolutions_is_refused():
    with pytest.raises(ConfigurationError, match="no convolutions behind the first"):
        add_parallel_adapters(Backbone((1, 6, 6), {"flat": nn.Flatten()}))
