import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cl_ac.folding import fold_batch_norm


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
