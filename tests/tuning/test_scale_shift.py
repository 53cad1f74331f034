"""Scale and shift: the outputs of layers, whatever computes them."""

import copy

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.scale_shift import add_scale_shift


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(4, 3), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(4), nn.LayerNorm(4)],
    ids=str,
)
def test_outputs_are_scaled_and_shifted(layer):
    backbone = Backbone((4, 4, 4), {"only": layer})
    backbone.freeze("all")
    with torch.no_grad():
        layer.bias.add_(0.7)
    hidden = torch.randn(2, 4, 4, 4)
    before = layer.eval()(hidden)
    add_scale_shift(backbone)
    scale, shift = torch.randn(2, len(layer.bias))
    with torch.no_grad():
        layer.parametrizations.weight[0].scale.copy_(scale)
        layer.parametrizations.bias[0].shift.copy_(shift)
    if not isinstance(layer, nn.Linear | nn.LayerNorm):
        scale, shift = scale[:, None, None], shift[:, None, None]
    torch.testing.assert_close(layer(hidden), before * scale + shift)


def test_layers_without_bias_are_scaled(frozen_backbone):
    backbone = frozen_backbone("toy")
    add_scale_shift(backbone)
    convolution, norm, _ = backbone.stages[0]
    assert set(convolution.parametrizations) == {"weight"}
    assert set(norm.parametrizations) == {"weight", "bias"}


def test_factors_are_shared_by_weight_and_bias_in_copies_too(frozen_backbone):
    backbone = frozen_backbone("ViT")
    add_scale_shift(backbone)
    for each in (backbone, copy.deepcopy(backbone)):
        norm = each.stages[1].norm1.parametrizations
        assert norm.weight[0].scale is norm.bias[0].scale


def test_a_network_without_layers_is_refused():
    with pytest.raises(ConfigurationError, match="no layers to scale and shift"):
        add_scale_shift(Backbone((1, 6, 6), {"flat": nn.Flatten()}))
