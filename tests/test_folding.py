import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cl_ac.folding import DirectConvolution, direct_convolutions, fold_batch_norm


def normalised(features: int) -> nn.BatchNorm2d:
    """Batch norm that has seen data and learned."""
    norm = nn.BatchNorm2d(features)
    stream = torch.Generator().manual_seed(features)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.copy_(torch.randn(features, generator=stream))
        norm.running_var.copy_(torch.rand(features, generator=stream) + 0.1)
    return norm


def norms(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())


class Shared(nn.Module):
    """A convolution whose output is read twice, and one that is used twice."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 3, 1), normalised(3)

    def forward(self, hidden):
        if self.kind == "read":
            hidden = self.conv(hidden)
            return self.norm(hidden) + hidden
        return self.norm(self.conv(hidden)) + self.conv(hidden)


class Branching(nn.Module):
    """Control flow that depends on the input."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), normalised(3)

    def forward(self, hidden):
        hidden = self.norm(self.conv(hidden))
        return hidden if hidden.sum() > 0 else -hidden


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), normalised(4), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1, bias=False)), 0),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), normalised(4)), nn.ReLU()), 0),
        (nn.Sequential(normalised(3), nn.Conv2d(3, 2, 1)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), 1),
        (Shared("read"), 1),
        (Shared("used"), 1),
        (Branching(), 1),
    ],
)
def test_folding_keeps_the_function(module, left):
    module = module.double().eval()
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before, count = module(images), norms(module)
    folded = fold_batch_norm(module)
    torch.testing.assert_close(folded(images), before)
    assert norms(folded) == left
    assert norms(module) == count, "the module itself is left as it is"
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_a_module_in_training_mode_is_folded_for_evaluation():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), normalised(3)).train()
    images = torch.randn(2, 3, 4, 4)
    expected = F.batch_norm(
        module[0](images),
        module[1].running_mean, module[1].running_var, module[1].weight, module[1].bias, eps=module[1].eps,
    )  # fmt: skip
    torch.testing.assert_close(fold_batch_norm(module)(images), expected)
    assert module.training


def test_direct_convolutions_are_the_same_function():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, groups=2, bias=False)),
        nn.Conv2d(16, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
    ).eval()  # fmt: skip
    direct = copy.deepcopy(layers)
    direct_convolutions(direct)
    assert [type(direct[0]), type(direct[2][0])] == 2 * [DirectConvolution]
    assert [type(direct[3]), type(direct[4])] == 2 * [nn.Conv2d]
    for images in (torch.randn(1, 3, 96, 96), torch.randn(2, 3, 5, 5), torch.randn(1, 3, 96, 96).double()):
        layers.to(images.dtype), direct.to(images.dtype)
        torch.testing.assert_close(direct(images), layers(images))


@pytest.mark.parametrize(("side", "calls"), [(32, 1), (16, 0)])
def test_only_a_large_image_is_convolved_directly(side, calls, monkeypatch):
    called, plain = [], torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *given: called.append(0) or plain(*given))
    direct = DirectConvolution(nn.Conv2d(16, 16, 3, padding=1))
    direct(torch.randn(1, 16, side, side))
    assert len(called) == calls
