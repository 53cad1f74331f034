"""Masked FFNs and linear layers: the same as masking by hand in float64, counted right, and undone afterwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.vit import MLP
from cl_ac.efficiency.router_free import masked, showing
from cl_ac.efficiency.sparsity_rules import MaxP, SparsityRule, Threshold, TopK, TopP
from cl_ac.errors import ConfigurationError

WIDTH, NEURONS = 12, 40


class GatedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(WIDTH, NEURONS), nn.Linear(WIDTH, NEURONS)
        self.down_proj, self.act_fn = nn.Linear(NEURONS, WIDTH), nn.SiLU()

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))


class Model(nn.Module):
    """Two residual FFNs after a linear layer; takes a padding mask as Hugging Face's models do."""

    def __init__(self, build):
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(nn.ModuleDict({"mlp": build()}) for _ in range(2))

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embed(hidden)
        for block in self.blocks:
            hidden = hidden + block["mlp"](hidden)
        return hidden


def plain() -> nn.Module:
    return MLP(WIDTH, NEURONS)


@pytest.fixture(params=[plain, GatedMLP], ids=["plain", "gated"])
def model(request) -> Model:
    torch.manual_seed(0)
    return Model(request.param).eval().requires_grad_(False)


@pytest.fixture
def gated() -> Model:
    torch.manual_seed(0)
    return Model(GatedMLP).eval().requires_grad_(False)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def by_hand(mlp: nn.Module, hidden: Tensor, rules: dict[str, SparsityRule]) -> Tensor:
    """The FFN with each tensor multiplied by its mask, in float64; the rules see float32, as in the model."""

    def zeroed(place: str, values: Tensor) -> Tensor:
        return values * rules[place](values.float()) if place in rules else values

    def linear(layer: nn.Linear, values: Tensor) -> Tensor:
        return F.linear(values, layer.weight.double(), layer.bias.double())

    hidden = zeroed("input", hidden)
    if isinstance(mlp, MLP):
        return linear(mlp.down, zeroed("intermediate", F.gelu(zeroed("up", linear(mlp.up, hidden)))))
    gate = zeroed("gate", F.silu(linear(mlp.gate_proj, hidden)))
    return linear(mlp.down_proj, zeroed("intermediate", gate * zeroed("up", linear(mlp.up_proj, hidden))))


RULES = [
    {"input": MaxP(0.4)},
    {"up": Threshold(0.3)},
    {"gate": Threshold(0.1)},
    {"intermediate": MaxP(0.1)},
    {"input": MaxP(0.3), "intermediate": Threshold(0.05)},
    {"input": TopP(0.95), "up": MaxP(0.2), "gate": TopK(0.5), "intermediate": TopP(0.9)},
]


@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: "+".join(rules))
def test_equals_masking_by_hand(model, tokens, rules, backend):
    if isinstance(model.blocks[0]["mlp"], MLP):
        rules = {place: rule for place, rule in rules.items() if place != "gate"}
    embed = model.embed
    hidden = F.linear(tokens.double(), embed.weight.double(), embed.bias.double())
    for block in model.blocks:
        hidden = hidden + by_hand(block["mlp"], hidden, rules)
    with masked(model, rules, backend=backend):
        output = model(tokens)
    torch.testing.assert_close(output.double(), hidden, rtol=1e-4, atol=1e-5)


def test_keeping_everything_keeps_the_output_and_the_context_leaves_no_trace(model, tokens):
    before, modules = model(tokens), list(model.named_modules())
    state = list(model.state_dict())
    with masked(model, {"input": TopP(1.0), "intermediate": TopP(1.0)}) as induced:
        torch.testing.assert_close(model(tokens), before)
        assert list(model.state_dict()) != state
    assert induced.total() == 0
    with pytest.raises(RuntimeError), masked(model, {"input": TopP(0.1)}):
        model(tokens[..., 1:])
    assert list(model.named_modules()) == modules
    assert torch.equal(model(tokens), before)
    assert not model._forward_pre_hooks


def test_sparsity_is_weighted_by_width(model, tokens):
    """Half of 12 inputs and a tenth of 40 neurons stay, so (6 + 36) of 52 entries are dropped."""
    with masked(model, {"input": TopK(0.5), "intermediate": TopK(0.1)}) as induced:
        model(tokens)
        model(tokens[:1])
    assert induced.shares() == {f"blocks.{index}.mlp": {"input": 0.5, "intermediate": 0.9} for index in range(2)}
    assert induced.total() == pytest.approx(42 / 52)


def test_rules_by_path(model, tokens):
    with masked(model, {"blocks.1.mlp": {"input": TopK(0.25)}}) as induced:
        model(tokens)
    assert induced.shares() == {"blocks.1.mlp": {"input": 0.75}}


def test_nothing_called_is_nan(model):
    with masked(model, {"input": TopK(0.5)}) as induced:
        pass
    assert induced.total() != induced.total()


def test_padding_does_not_count(model):
    """Real tokens lose one entry of twelve, padding would lose eleven."""
    tokens = torch.ones(2, 4, WIDTH)
    tokens[..., 0] = 0
    tokens[0, 3:], tokens[1, 1:] = 0, 0
    tokens[0, 3:, 0], tokens[1, 1:, 0] = 1, 1
    nn.init.eye_(model.embed.weight)
    nn.init.zeros_(model.embed.bias)
    padding = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    rules = {"blocks.0.mlp": {"input": MaxP(0.5)}}
    with masked(model, rules) as induced:
        model(tokens, attention_mask=padding)
    assert induced.total() == pytest.approx(1 / 12)
    with masked(model, rules) as induced:
        model(tokens[:, -1:], attention_mask=padding)
    assert induced.total() != induced.total(), "the newest tokens of both texts are padding"
    with masked(model, rules) as induced:
        model(tokens)
    assert induced.total() == pytest.approx((4 * 1 + 4 * 11) / (8 * 12))


def test_linear_layers_by_path(model, tokens):
    rule = MaxP(0.5)
    embedded = F.linear(tokens * rule(tokens), model.embed.weight, model.embed.bias)
    expected = embedded
    for block in model.blocks:
        expected = expected + block["mlp"](expected)
    with masked(model, linears={"embed": rule}) as induced:
        torch.testing.assert_close(model(tokens), expected)
    assert induced.shares() == {"embed": {"input": pytest.approx(float((~rule(tokens)).double().mean()))}}


def test_watched_tensors_are_those_of_the_formula(gated, tokens):
    seen = {}
    expected = gated(tokens)
    with showing(gated, lambda name, place, values: seen.update({(name, place): values})):
        torch.testing.assert_close(gated(tokens), expected)
    mlp, hidden = gated.blocks[0]["mlp"], gated.embed(tokens)
    up, gate = mlp.up_proj(hidden), mlp.act_fn(mlp.gate_proj(hidden))
    for place, values in {"input": hidden, "up": up, "gate": gate, "intermediate": gate * up}.items():
        torch.testing.assert_close(seen["blocks.0.mlp", place], values)
    assert len(seen) == 8


def test_watched_tokens_are_no_padding(gated, tokens):
    shapes = []
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    with showing(gated, lambda name, place, values: shapes.append(tuple(values.shape))):
        gated(tokens, attention_mask=mask)
    assert shapes[0] == (7, WIDTH)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rules": {"gate": TopK(0.5)}}, "unknown tensor of the FFN 'blocks.0.mlp' 'gate'"),
        ({"rules": {"blocks.7.mlp": {"input": TopK(0.5)}}}, "unknown FFN of the model Model 'blocks.7.mlp'"),
        ({"linears": {"blocks.0": TopK(0.5)}}, "unknown linear layer of the model Model 'blocks.0'"),
        (
            {"rules": {"input": TopK(0.5)}, "linears": {"blocks.0.mlp.up": TopK(0.5)}},
            "'blocks.0.mlp.up' is part of an FFN that has rules of its own",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments, sentence):
    with pytest.raises(ConfigurationError, match=sentence), masked(Model(plain), **arguments):
        pass


def test_a_model_without_ffn_is_refused():
    refusal = pytest.raises(ConfigurationError, match="the model Linear has no feed-forward network")
    with refusal, masked(nn.Linear(2, 2), {"input": TopK(0.5)}):
        pass


def test_under_autocast_masked_layers_keep_the_precision_of_their_weights(model, tokens):
    rules = {"input": TopP(0.9), "intermediate": TopP(0.9)}
    with masked(model, rules):
        expected = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        for backend in ("torch", "dense"):
            with masked(model, rules, backend=backend):
                torch.testing.assert_close(model(tokens).float(), expected, atol=0.05, rtol=0.05)


def test_no_rules_induce_no_sparsity(model, tokens):
    with masked(model) as induced:
        model(tokens)
    assert induced.total() != induced.total()
