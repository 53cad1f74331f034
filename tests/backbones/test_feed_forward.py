import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl_ac.backbones.feed_forward import ADAPTERS, FeedForward, activation_name, find_feed_forwards
from cl_ac.backbones.vit import MLP, ViT
from cl_ac.backbones.wrapped import TimmModel, WrappedModel
from cl_ac.network import ExitNetwork


class Block(nn.Module):
    """Something with one FFN inside."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(8), mlp

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class GLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)
        self.down_proj, self.act_fn = nn.Linear(12, 8, bias=False), nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Halves(nn.Module):
    """A GLU with both input weights in one layer."""

    def __init__(self, gate_last: bool):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 24), nn.GELU("tanh"), nn.Linear(12, 8)
        self.gate_last = gate_last

    def forward(self, x):
        first, last = self.fc1(x).chunk(2, -1)
        return self.fc2(first * self.act(last) if self.gate_last else self.act(first) * last)


class Conv1D(nn.Module):
    """A linear layer that stores its weight transposed, as Hugging Face's GPT-2 does."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf, self.weight, self.bias = nf, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc, self.act, self.c_proj = Conv1D(12, 8), nn.GELU("tanh"), Conv1D(8, 12)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class DropsHidden(nn.Module):
    """As T5: the only dropout stands last among the modules and is called before the last layer."""

    def __init__(self):
        super().__init__()
        self.wi, self.wo = nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)
        self.dropout, self.act = nn.Dropout(0.4), nn.GELU("tanh")

    def forward(self, x):
        return self.wo(self.dropout(self.act(self.wi(x))))


class Spread(nn.Module):
    """A layer whose FFN is spread over two submodules, as in BERT."""

    def __init__(self):
        super().__init__()
        self.intermediate, self.output = nn.Module(), nn.Module()
        self.intermediate.dense, self.intermediate.intermediate_act_fn = nn.Linear(8, 12), nn.GELU()
        self.intermediate.forward = lambda x: self.intermediate.intermediate_act_fn(self.intermediate.dense(x))
        self.output.dense, self.norm = nn.Linear(12, 8), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.output.dense(self.intermediate(x)) + x)


MODULES = {
    "sequential": lambda: nn.Sequential(
        nn.Linear(8, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, 8), nn.Dropout(0.2)
    ),
    "own": lambda: MLP(8, 12, dropout=0.2),
    "glu": GLU,
    "gate first": lambda: Halves(False),
    "gate last": lambda: Halves(True),
    "transposed": Transposed,
    "before down": DropsHidden,
}


def computed(ffn: FeedForward, x: torch.Tensor) -> torch.Tensor:
    """The FFN by its description."""
    hidden = F.linear(x, ffn.up, ffn.up_bias)
    act = ffn.activation_module
    hidden = act(hidden) if ffn.gate is None else act(F.linear(x, ffn.gate, ffn.gate_bias)) * hidden
    return F.linear(hidden, ffn.down, ffn.down_bias)


@pytest.mark.parametrize("kind", MODULES)
def test_a_description_computes_the_module(kind):
    torch.manual_seed(0)
    model = Block(MODULES[kind]()).eval()
    (ffn,) = find_feed_forwards(model).values()
    x = torch.randn(3, 8)
    torch.testing.assert_close(computed(ffn, x), model.mlp(x))
    assert (ffn.name, ffn.width, ffn.hidden) == ("mlp", 8, 12)
    assert ffn.dropout == {"sequential": 0.2, "own": 0.2, "transposed": 0.3}.get(kind, 0)
    assert ffn.hidden_dropout == {"sequential": 0.1, "own": 0.2, "before down": 0.4}.get(kind, 0)
    assert ffn.activation == {"glu": "silu", "sequential": "gelu", "own": "gelu"}.get(kind, "gelu_tanh")


@pytest.mark.parametrize("kind", MODULES)
def test_a_replacement_and_a_swapped_activation_take_effect(kind):
    model = Block(MODULES[kind]()).eval()
    x = torch.randn(3, 8)
    (ffn,) = find_feed_forwards(model).values()
    ffn.swap_activation(nn.ReLU())
    (swapped,) = find_feed_forwards(model).values()
    assert swapped.activation == "relu"
    torch.testing.assert_close(computed(swapped, x), model.mlp(x))
    ffn.replace(model, nn.Identity())
    torch.testing.assert_close(model(x), x + model.norm(x))


def test_an_ffn_spread_over_a_layer_leaves_the_rest_of_the_layer():
    model = nn.Sequential(Spread()).eval()
    (ffn,) = find_feed_forwards(model).values()
    x = torch.randn(3, 8)
    torch.testing.assert_close(model[0].norm(computed(ffn, x) + x), model(x))
    replacement = nn.Linear(8, 8)
    ffn.replace(model, replacement)
    torch.testing.assert_close(model(x), model[0].norm(replacement(x) + x))


class Scaled(MLP):
    """Looks like an FFN and is none."""

    def forward(self, hidden):
        return 2 * super().forward(hidden)


class Needy(MLP):
    def forward(self, hidden, context):
        return super().forward(hidden) + context


@pytest.mark.parametrize("kind", [Scaled, Needy])
def test_what_computes_something_else_is_no_ffn(kind):
    assert not find_feed_forwards(Block(kind(8, 12)))


def test_the_search_leaves_modes_and_random_numbers_alone():
    model = Block(MLP(8, 12, dropout=0.5)).train()
    model.norm.eval()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    find_feed_forwards(model)
    assert torch.equal(torch.rand(1), expected)
    assert model.mlp.drop.training
    assert not model.norm.training


def test_a_users_adapter_is_asked_first():
    scaled = Block(Scaled(8, 12))

    def adapter(module: nn.Module) -> list[FeedForward]:
        if not isinstance(module, Scaled):
            return []
        up, down = module.up, module.down
        doubled = 2 * down.weight.detach(), 2 * down.bias.detach()
        return [FeedForward(module, ("",), "activation", up.weight.detach(), doubled[0], up.bias.detach(), doubled[1])]

    assert list(find_feed_forwards(scaled, (adapter, *ADAPTERS))) == ["mlp"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.ReLU(inplace=True), "relu"),
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu_tanh"),
        (nn.SiLU(), "silu"),
        (nn.Sigmoid(), None),
        (nn.LeakyReLU(), None),
    ],
)
def test_activations_are_known_by_their_values(module, name):
    assert activation_name(module) == name


@pytest.mark.parametrize("library", ["own", "torchvision", "timm"])
def test_ffns_of_backbones_survive_and_are_replaced_where_they_run(library):
    torch.manual_seed(0)
    if library == "own":
        backbone = ViT((3, 8, 8), depth=2)
    elif library == "torchvision":
        options = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
        stages = ["encoder.layers.encoder_layer_0"]
        backbone = WrappedModel((3, 8, 8), "torchvision.models.VisionTransformer", stages, options=options)
    else:
        options = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}
        backbone = TimmModel((3, 8, 8), "vit_tiny_patch16_224", ["blocks.0"], options=options)
    network = ExitNetwork(backbone)
    network.grow(2, 0)
    images = torch.randn(2, 3, 8, 8)
    network.eval()
    before = network(images)
    found = find_feed_forwards(copy.deepcopy(network))
    assert len(found) == 2
    seen = []
    for ffn in find_feed_forwards(network).values():
        ffn.activation_module.register_forward_hook(lambda module, inputs, output: seen.append(output))
        ffn.replace(network, ffn.module)
    assert torch.equal(network(images), before)
    assert len(seen) == 2
    for ffn in find_feed_forwards(network).values():
        ffn.replace(network, nn.Identity())
    assert not torch.allclose(network(images), before)


@pytest.mark.parametrize("build", [lambda: MLP(8, 16), GLU, lambda: Halves(True)])
def test_under_autocast_the_search_sees_the_weights_as_they_are(build):
    """And leaves autocast no copies of weights that were made without gradient."""
    model, seen = nn.Sequential(build()), []
    linear = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
    hook = linear.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert len(find_feed_forwards(model)) == 1
        assert set(seen) == {torch.float32}
        hook.remove()
        model(torch.randn(3, 8)).float().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
