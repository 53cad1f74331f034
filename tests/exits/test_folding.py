import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cl_ac.backbones.resnet import BasicBlock
from cl_ac.exits.folding import FEW_MACS, InferenceStages, fold_batch_norm
from cl_ac.network import Backbone
from cl_ac.sparse_training.layers import masked_layers, put_masks


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

    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 1), normalised(channels)

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


def inferring(module: nn.Module, images: torch.Tensor) -> tuple[InferenceStages, list[str]]:
    """A module in its form for inference, which has run, and what its packed form calls."""
    stages = InferenceStages(module, images.shape[1:])
    stages(images)
    if stages.packed == stages.folded.forward:
        return stages, []
    graph = stages.packed.__self__.graph
    return stages, [str(node.target) for node in graph.nodes if node.op.startswith("call")]


def convolutions(calls: list[str]) -> int:
    return sum("_convolution_pointwise" in name for name in calls)


class Summing(nn.Module):
    """A convolution and what is done with its result."""

    def __init__(self, then):
        super().__init__()
        self.then, self.conv, self.other = then, nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, hidden):
        return self.then(self, hidden)


def own_sum_in_place(self, hidden):
    result = self.conv(hidden)
    result += hidden
    return F.relu(result)


RESULTS = [
    lambda self, hidden: F.relu(self.conv(hidden) + hidden),
    lambda self, hidden: torch.relu(torch.add(hidden, self.conv(hidden))),
    lambda self, hidden: torch.add(hidden, self.conv(hidden), alpha=3),
    lambda self, hidden: self.conv(hidden) + self.conv(hidden),
    lambda self, hidden: self.conv(hidden) + self.other(hidden),
    lambda self, hidden: F.relu(self.conv(hidden)) + 1,
    lambda self, hidden: self.conv(hidden) + 2,
    lambda self, hidden: self.conv(hidden) + hidden.size(1),
    lambda self, hidden: self.conv(hidden) + hidden.chunk(16, 1)[0],
    lambda self, hidden: (lambda result: F.relu(result) + result)(self.conv(hidden)),
    lambda self, hidden: (lambda result: (result + hidden) * result)(self.conv(hidden)),
    lambda self, hidden: (lambda result: result + result)(self.conv(hidden)),
    own_sum_in_place,
]


@pytest.mark.parametrize("then", RESULTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_packing_keeps_the_function_whatever_follows(then, batch):
    module = Summing(then).eval()
    images = torch.randn(batch, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    fast, calls = inferring(module, images)
    assert convolutions(calls) >= 1
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(fast(given), module(given), atol=1e-4, rtol=1e-4)


class InPlace(nn.Module):
    """Changes a tensor that it reads again under another name, which tracing does not see."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1), normalised(16)

    def forward(self, hidden):
        hidden = hidden * 1
        kept = hidden
        hidden += self.norm(self.conv(hidden))
        return hidden * kept


@pytest.mark.parametrize("training", [False, True])
def test_a_module_that_tracing_misreads_runs_as_it_is(training):
    module = InPlace().train(training)
    images = torch.randn(3, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    stages = InferenceStages(module, (16, 12, 12))
    assert all(part.training is training for part in module.modules())
    torch.testing.assert_close(stages(images), module.eval()(images))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_becomes_its_convolutions(stride):
    torch.manual_seed(0)
    block = nn.Sequential(BasicBlock(16, 16 * stride, stride), BasicBlock(16 * stride, 16 * stride, 1, last_relu=False))
    block.eval()
    for norm in (layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.load_state_dict(normalised(norm.num_features).state_dict())
    images = torch.randn(2, 16, 16, 16)
    fast, calls = inferring(block, images)
    torch.testing.assert_close(fast(images), block(images), atol=1e-4, rtol=1e-4)
    # The shortcut that changes the shape is too small to be packed.
    assert convolutions(calls) == 4
    assert len(calls) == 4 + (stride == 2)


def test_other_dtypes_run_the_folded_layers():
    module = Summing(RESULTS[0]).eval()
    images = torch.randn(2, 16, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stages = InferenceStages(module, (16, 12, 12)).double()
    torch.testing.assert_close(stages(images), module.double()(images))
    assert stages.packed is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda stages: pickle.loads(pickle.dumps(stages))])
def test_packed_stages_can_be_copied(copied):
    images = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    stages, calls = inferring(BasicBlock(16, 16, 1), images)
    other = copied(stages)
    assert convolutions(calls) == 2
    assert other.packed is None
    assert torch.equal(other(images), stages(images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(16, 2, 3),
        Branching(16),
    ],
)
def test_other_convolutions_stay_as_they_are(layer):
    images = torch.randn(3, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    module = nn.Sequential(layer, nn.ReLU()).eval()
    fast, calls = inferring(module, images)
    assert convolutions(calls) == 0
    torch.testing.assert_close(fast(images), module(images), atol=1e-5, rtol=1e-5)


def test_small_convolutions_are_not_packed():
    side = round((FEW_MACS / (9 * 16 * 16)) ** 0.5)
    for size, expected in ((side - 1, 0), (side + 1, 1)):
        layers = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU())
        images = torch.randn(2, 16, size, size)
        fast, calls = inferring(layers, images)
        assert convolutions(calls) == expected
        torch.testing.assert_close(fast(images), layers(images), atol=1e-4, rtol=1e-4)


def test_grouped_and_dilated_convolutions_are_packed_too():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(16, 32, 3, 2, 1, groups=4), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=2, dilation=2)
    ).eval()
    images = torch.randn(3, 16, 48, 48)
    fast, calls = inferring(layers, images)
    assert convolutions(calls) == len(calls) == 2
    torch.testing.assert_close(fast(images), layers(images), atol=1e-4, rtol=1e-4)


def test_a_convolution_that_is_used_twice_is_packed_twice():
    images = torch.randn(2, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    _, calls = inferring(Summing(RESULTS[3]), images)
    assert convolutions(calls) == 2


def test_layers_that_compute_their_weights_are_folded_with_those_of_this_moment():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    put_masks(Backbone((3, 6, 6), {"all": module}))
    for layer in masked_layers(module):
        layer.set(layer.original.detach(), torch.rand(layer.original.shape) < 0.5)
    images = torch.randn(2, 3, 6, 6)
    expected = module.eval()(images)
    folded = fold_batch_norm(module)
    torch.testing.assert_close(folded(images), expected)
    assert [type(layer) for layer in folded.children()] == [nn.Conv2d, nn.Conv2d]
    # The module itself still has its masks, and so has every copy of it.
    assert len(list(masked_layers(copy.deepcopy(module)))) == 2
    torch.testing.assert_close(module(images), expected)
