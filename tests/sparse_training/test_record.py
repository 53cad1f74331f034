import pytest
import torch
from torch import nn

from cl_ac.network import Backbone, ExitNetwork, Exits
from cl_ac.sparse_training.heads import SparseLinear
from cl_ac.sparse_training.layers import masked_layers, put_masks
from cl_ac.sparse_training.record import SparseRecord, jacobian, record, saved_macs, signals


def network_of(*modules: nn.Module, exits: Exits = Exits([], []), shape=(2, 4, 4)) -> ExitNetwork:
    stages = {f"stage{index}": module for index, module in enumerate(modules)}
    network = ExitNetwork(Backbone(shape, stages), exits)
    put_masks(network.backbone)
    return network


def prune(network: ExitNetwork, density: float = 0.5) -> None:
    for index, layer in enumerate(masked_layers(network)):
        kept = torch.rand(layer.original.shape, generator=torch.Generator().manual_seed(index)) < density
        layer.set(layer.original.detach().clone(), kept)


def test_macs_of_masked_weights_by_hand():
    convolution = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    network = network_of(convolution, nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), exits=Exits(["stage0"], [0.5]))
    network.grow(2, 0)
    prune(network)
    first, second = (int((~layer.mask.kept).sum()) for layer in masked_layers(network))
    assert saved_macs(network, list(masked_layers(network))) == [16 * first, 16 * first + second]
    found = record(network, torch.randn(1, 2, 4, 4))
    assert [m - s for m, s in zip(found.macs, found.sparse_macs, strict=True)] == [16 * first, 16 * first + second]
    assert found.weights - found.sparse_weights == first + second
    assert found.density == pytest.approx(1 - (first + second) / (54 + 240))


def test_attention_counts_each_token():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, images):
            tokens = images.flatten(2).mT
            return self.attention(tokens, tokens, tokens)[0].mean(1)

    network = network_of(Attend(), shape=(4, 2, 3))
    prune(network)
    masked = sum(int((~layer.mask.kept).sum()) for layer in masked_layers(network))
    assert saved_macs(network, list(masked_layers(network))) == [6 * masked]


def test_sparse_heads_save_their_masked_rows():
    network = network_of(nn.Flatten(), nn.Linear(32, 16))
    network.heads[-1].classifier = SparseLinear(16, 0.25, 1.0)
    network.grow(4, 0)
    found = record(network, torch.empty(0))
    assert found.macs[0] - found.sparse_macs[0] == int((~network.heads[-1].classifier.mask).sum()) == 48
    assert found.signals is None


def test_the_jacobian_is_that_of_the_last_features():
    torch.manual_seed(0)
    network = network_of(nn.Conv2d(2, 3, 3), nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(12, 70))).double()
    image = torch.randn(2, 4, 4).double()

    def features(pixels: torch.Tensor) -> torch.Tensor:
        return network.backbone.stages[1](network.backbone.stages[0](pixels.view(1, 2, 4, 4)))[0]

    expected = torch.autograd.functional.jacobian(features, image.flatten())
    torch.testing.assert_close(jacobian(network, image), expected)


def test_singular_values_by_hand():
    layer = nn.Linear(2, 2, bias=False)
    network = network_of(nn.Sequential(nn.Flatten(), layer), shape=(1, 1, 2))
    next(masked_layers(network)).set(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool))
    found = signals(network, torch.randn(3, 1, 1, 2))
    assert (found.mean, found.deviation, found.smallest, found.largest) == pytest.approx((2, 1, 1, 3))


def test_a_file_gives_back_what_was_saved(tmp_path):
    network = network_of(nn.Flatten(), nn.Linear(32, 16))
    for images in (torch.randn(2, 2, 4, 4), torch.empty(0)):
        found = record(network, images)
        found.save(tmp_path / "start.json")
        assert SparseRecord.load(tmp_path / "start.json") == found
        assert found.macs == []
