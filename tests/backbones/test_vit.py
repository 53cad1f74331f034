"""Our vision transformer: the published size and cost, the mathematics, and life as a backbone."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision

from cl_ac.approaches.ewc import EWC
from cl_ac.approaches.lwf import LwF
from cl_ac.backbones.vit import MLP, Attention, ViT
from cl_ac.datasets.digits import Digits
from cl_ac.errors import ConfigurationError
from cl_ac.exits.cost import exit_costs
from cl_ac.heads import TokenHead
from cl_ac.network import ExitNetwork
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import run
from cl_ac.training import Training

DIGITS = (1, 8, 8)
B16 = {"patch": 16, "width": 768, "depth": 12, "heads": 12}


def forward(backbone: ViT, images: torch.Tensor) -> torch.Tensor:
    for stage in backbone.stages:
        images = stage(images)
    return images


def test_vit_b16_has_the_published_size():
    with torch.device("meta"):
        backbone = ViT((3, 224, 224), **B16)
        twin = torchvision.models.vit_b_16()
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == sum(parameter.numel() for parameter in twin.parameters()) - sum(
        parameter.numel() for parameter in twin.heads.parameters()
    )


def test_computes_what_torchvision_computes():
    """With the same weights; torchvision's attention keeps queries, keys and values fused in the same order."""
    twin = torchvision.models.VisionTransformer(16, 4, 2, 3, 12, 30).eval()
    backbone = ViT((3, 16, 16), patch=4, width=12, depth=2, heads=3, expansion=2.5).eval()
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sources = iter([twin.conv_proj.weight, twin.conv_proj.bias, *parameters_in_our_order(twin)])
    patches = backbone.stages[0]
    targets = [patches.embed.weight, patches.embed.bias, patches.class_token, patches.positions]
    targets += [parameter for stage in backbone.stages[1:] for parameter in stage.parameters()]
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
    images = torch.randn(2, 3, 16, 16)
    twin.heads = torch.nn.Identity()
    torch.testing.assert_close(forward(backbone, images), twin(images), rtol=1e-4, atol=1e-4)


def parameters_in_our_order(twin: torchvision.models.VisionTransformer) -> list[torch.Tensor]:
    found = [twin.class_token, twin.encoder.pos_embedding]
    for layer in twin.encoder.layers:
        attention = layer.self_attention
        projections = [attention.in_proj_weight, attention.in_proj_bias, *attention.out_proj.parameters()]
        found += [*layer.ln_1.parameters(), *projections, *layer.ln_2.parameters(), *layer.mlp.parameters()]
    return [*found, *twin.encoder.ln.parameters()]


def test_attention_equals_float64_softmax():
    attention, hidden = Attention(12, 3).double(), torch.randn(2, 5, 12, dtype=torch.float64)
    queries, keys, values = (part.view(2, 5, 3, 4).transpose(1, 2) for part in attention.qkv(hidden).chunk(3, -1))
    mixed = (queries @ keys.mT / 2).softmax(-1) @ values
    torch.testing.assert_close(attention(hidden), attention.proj(mixed.transpose(1, 2).reshape(2, 5, 12)))


@pytest.mark.parametrize(("activation", "function"), [("gelu", F.gelu), ("relu", F.relu)])
def test_mlp_by_hand(activation, function):
    mlp, hidden = MLP(4, 6, activation, dropout=0.5).double().eval(), torch.randn(3, 4, dtype=torch.float64)
    inner = function(hidden @ mlp.up.weight.T + mlp.up.bias)
    torch.testing.assert_close(mlp(hidden), inner @ mlp.down.weight.T + mlp.down.bias)
    assert not torch.equal(mlp.train()(hidden), mlp(hidden))


def test_stages_and_placements():
    backbone = ViT(DIGITS, width=8, depth=3, heads=2)
    assert backbone.stage_names == ["patches", "block_0", "block_1", "block_2", "token"]
    assert backbone.shapes() == [(17, 8)] * 4 + [(8,)]
    exits = backbone.exits("ln")
    assert (exits.at, exits.weights) == (["block_0", "block_1"], [0.32, 0.64])
    assert backbone.exits("sparse").at == ["block_1"]
    network = ExitNetwork(backbone, exits)
    assert [type(head) for head in network.heads][:-1] == [TokenHead] * 2


def test_weights_of_the_acs_of_vit_b16_are_the_papers():
    exits = ViT(DIGITS, width=2, depth=12, heads=1).exits("ln")
    assert exits.weights == pytest.approx([0.08 * (index + 1) for index in range(11)])
    assert exits.at == [f"block_{index}" for index in range(11)]


def test_cost_is_the_closed_form_with_attention():
    tokens, width, neurons, classes = 17, 8, 20, 5
    backbone = ViT(DIGITS, width=width, depth=2, heads=2, expansion=2.5)
    network = ExitNetwork(backbone, backbone.exits("ln"))
    network.grow(classes, 0)
    patches = 16 * width * 4
    block = tokens * (4 * width * width + 2 * width * neurons) + 2 * tokens * tokens * width
    head = width * classes
    assert exit_costs(network).exits == [patches + block + head, patches + 2 * block + 2 * head]


def test_channels_last_images_give_the_same():
    backbone, images = ViT((3, 8, 8), width=8, depth=1, heads=2).eval(), torch.randn(2, 3, 8, 8)
    expected = forward(backbone, images)
    twin = copy.deepcopy(backbone).to(memory_format=torch.channels_last)
    torch.testing.assert_close(forward(twin, images.to(memory_format=torch.channels_last)), expected)


def test_initial_weights_are_those_of_deit():
    torch.manual_seed(0)
    backbone = ViT(DIGITS, depth=2)
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.Linear):
            assert layer.weight.detach().std() == pytest.approx(0.02, rel=0.1)
            assert not layer.bias.any()
    assert backbone.stages[0].positions.detach().std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patch": 3}, "patch 3; it must divide the images' height 8 and width 8"),
        ({"width": 10, "heads": 4}, "width 10; it must be a multiple of its 4 heads"),
        ({"depth": 0}, "depth 0; it must be at least 1"),
        ({"dropout": 1.0}, "dropout 1; it must be"),
        ({"expansion": 0.001}, "at least 1 neuron"),
    ],
)
def test_what_does_not_fit_is_one_sentence(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        ViT(DIGITS, **options)


def test_unknown_placement_is_one_sentence():
    with pytest.raises(ConfigurationError, match="unknown exits preset 'sdn'; known: ln, sparse for the backbone ViT"):
        ViT(DIGITS, width=8, heads=2).exits("sdn")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("approach", [LwF, EWC])
def test_runs_and_resumes_to_the_same_bits(approach, tmp_path):
    """A run that is stopped after its first task and one that is not end alike."""

    def start(path: str, resume: bool, tasks_to_do: int):
        torch.manual_seed(0)
        backbone = ViT(DIGITS, patch=4, width=8, depth=2, heads=2, dropout=0.1)
        learner = approach()
        if tasks_to_do == 1:
            learner.end_task = stopping(learner.end_task, 2)
        training = Training(epochs=1, batch_size=64, optimizer="adamw", lr=0.01, schedule="constant")
        directory = RunDirectory(tmp_path / path)
        return run(
            learner,
            Digits(tasks=2, samples_per_class=30),
            backbone,
            directory,
            "ln",
            training,
            resume=resume,
            device="cpu",
        )

    whole = start("whole", resume=False, tasks_to_do=2)
    with pytest.raises(KeyboardInterrupt):
        start("stopped", resume=False, tasks_to_do=1)
    resumed = start("stopped", resume=True, tasks_to_do=2)
    assert [record.exits for record in resumed] == [record.exits for record in whole]
    assert len(resumed[-1].exits[0]) == 2


def stopping(method, call: int):
    """`method`, interrupted at its n-th call."""
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return method(*args)

    return interrupted
