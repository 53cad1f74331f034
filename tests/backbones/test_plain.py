import pytest
import torch

from cl_ac.backbones.plain import PlainMLP
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork


def test_layers_follow_each_other_and_acs_hang_at_the_quarters():
    network = ExitNetwork(PlainMLP((1, 4, 4), depth=8, width=6), PlainMLP((1, 4, 4), depth=8).exits("sdn"))
    network.grow(3, 0)
    assert network.backbone.stage_names == ["flat", *(f"layer{index}" for index in range(8))]
    assert network.exits.at == ["layer1", "layer3", "layer5"]
    assert network.exits.weights == [0.25, 0.5, 0.75]
    assert network(torch.randn(2, 1, 4, 4)).shape == (4, 2, 3)


def test_activations():
    images = torch.randn(2, 1, 4, 4)
    for activation, function in (("tanh", torch.tanh), ("relu", torch.relu), ("linear", lambda values: values)):
        backbone = PlainMLP((1, 4, 4), depth=1, width=5, activation=activation)
        linear = backbone.stages[1][0]
        expected = function(images.flatten(1) @ linear.weight.T)
        torch.testing.assert_close(backbone.stages[1](backbone.stages[0](images)), expected)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shallow_chains_have_a_preset_too(depth):
    backbone = PlainMLP((1, 2, 2), depth)
    assert len(ExitNetwork(backbone, backbone.exits("sdn"))) == depth if depth < 3 else 3


def test_sizes_below_one_are_refused():
    with pytest.raises(ConfigurationError, match="PlainMLP has depth 0"):
        PlainMLP((1, 2, 2), 0)
