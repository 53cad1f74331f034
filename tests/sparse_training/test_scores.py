import math

import pytest
import torch
from torch import nn

from cl_ac.network import Backbone, ExitNetwork
from cl_ac.sparse_training.layers import masked_layers, put_masks
from cl_ac.sparse_training.scores import grasp, magnitude, snip, synflow


def chain(*weights: torch.Tensor, activation: type[nn.Module] = nn.Identity) -> ExitNetwork:
    """A network of linear layers with given weights and no biases."""
    stages: dict[str, nn.Module] = {"flat": nn.Flatten()}
    for index, weight in enumerate(weights):
        linear = nn.Linear(*reversed(weight.shape), bias=False)
        linear.weight = nn.Parameter(weight.clone())
        stages[f"layer{index}"] = nn.Sequential(linear, activation())
    network = ExitNetwork(Backbone((1, 1, weights[0].shape[1]), stages))
    put_masks(network.backbone)
    return network


def test_magnitude():
    network = chain(torch.tensor([[1.0, -2.0]]))
    assert magnitude(list(masked_layers(network)))[0].tolist() == [[1, 2]]


def test_snip_is_what_the_loss_loses_to_first_order():
    torch.manual_seed(0)
    network = chain(torch.randn(3, 4), torch.randn(2, 3), activation=nn.Tanh).double()
    images, layers = torch.randn(5, 1, 1, 4).double(), list(masked_layers(network.backbone))

    def loss(temperature: float) -> torch.Tensor:
        return (network.backbone.stages[2](network.backbone.stages[1](images.flatten(1))) / temperature).square().sum()

    scores, small = snip(layers, loss), 1e-6
    for layer, score in zip(layers, scores, strict=True):
        for place in ((0, 0), (1, 2)):
            before, value = loss(1.0).item(), layer.original[place].item()
            with torch.no_grad():
                layer.original[place] = value * (1 - small)
            assert score[place].item() == pytest.approx(abs(before - loss(1.0).item()) / small, rel=1e-3)
            with torch.no_grad():
                layer.original[place] = value


def test_grasp_by_hand():
    # L = (a² + 3 b²) / (2 T): g = (a, 3 b) / T, H g = (a, 9 b) / T², w H g = (a², 9 b²) / T².
    network = chain(torch.tensor([[2.0, -1.0]]))
    (layer,) = masked_layers(network)

    def loss(temperature: float) -> torch.Tensor:
        return (layer.weight.square() * torch.tensor([1.0, 3.0])).sum() / (2 * temperature)

    (scores,) = grasp([layer], loss)
    torch.testing.assert_close(scores * 200**2, torch.tensor([[4.0, 9.0]]))


def test_synflow_keeps_the_paths_that_carry_most():
    # Through the first hidden unit flow 4 · 3, through the second 1 · 1; signs do not count.
    network = chain(torch.tensor([[-4.0], [1.0]]), torch.tensor([[3.0, -1.0]]))
    scores = synflow(network, 0.5)
    kept = torch.cat([score.flatten() for score in scores]).topk(2).indices.tolist()
    assert sorted(kept) == [0, 2]
    assert all(layer.mask.kept.all() for layer in masked_layers(network))


def test_synflow_leaves_no_layer_empty_where_magnitude_would():
    torch.manual_seed(0)
    weights = [torch.randn(20, 20), 1e-3 * torch.randn(20, 20), torch.randn(20, 20)]
    network = chain(*weights)
    left = math.ceil(0.1 * 1200)
    for scores, empty in ((magnitude(list(masked_layers(network.backbone))), True), (synflow(network, 0.1), False)):
        chosen = torch.cat([score.flatten() for score in scores]).topk(left).indices
        assert (((chosen >= 400) & (chosen < 800)).sum() == 0) == empty
