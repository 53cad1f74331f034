"""Attention projections: distilled by their own inputs and outputs, found as FFNs afterwards."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.backbones.vit import MLP, ViT
from cl_ac.efficiency.projections import Projections, Residual, distil_projections, hidden_neurons, recorded
from cl_ac.efficiency.sparsify import Sparsify, square_hoyer
from cl_ac.efficiency.split_attention import split_projections
from cl_ac.errors import ConfigurationError

PLAIN = Sparsify("none")


@pytest.fixture
def model() -> nn.Module:
    """A small ViT whose projections are far from zero."""
    torch.manual_seed(0)
    model = nn.Sequential(*ViT((1, 8, 8), patch=4, width=16, depth=2, heads=2).stages).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def batches() -> list[Tensor]:
    return list(torch.randn(4, 16, 1, 8, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("width", "cost", "neurons"), [(768, 1.0, 384), (768, 0.5, 192), (64, 1.0, 32), (1, 0.1, 1)])
def test_neurons_at_equal_cost(width, cost, neurons):
    """768 gives 384 in D2DMoE's code."""
    assert hidden_neurons(width, cost) == neurons
    if width > 1:
        work = 2 * width * neurons + neurons + width
        assert work == pytest.approx(cost * (width * width + width), rel=0.02)


def test_recorded_is_what_the_layer_saw(model, batches):
    paths = split_projections(model)
    with recorded(model, paths) as seen:
        model(batches[0])
    for path in paths:
        layer = model.get_submodule(path)
        tokens, output = seen[path]
        torch.testing.assert_close(output, F.linear(tokens, layer.weight, layer.bias))
    normed = model[1].norm1(model[0](batches[0]))
    torch.testing.assert_close(seen["1.attention.qkv.query"][0], normed)


@pytest.mark.parametrize("residual", [False, True])
def test_distillation_replaces_and_approximates(model, batches, residual):
    dense = copy.deepcopy(model)
    settings = Projections(residual=residual, cost=4.0, dropout=0.0, epochs=25, lr=0.02, sparsify=PLAIN)
    errors = distil_projections(model, batches, settings)
    assert len(errors) == 25
    for path, error in errors[-1].items():
        assert error < 0.1 * errors[0][path], path
    kind = Residual if residual else MLP
    assert sum(isinstance(module, kind) for module in model.modules()) == 8 if residual else 10
    assert not model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    reference = F.mse_loss(dense(batches[0]), torch.zeros(()).expand(16, 16))
    assert F.mse_loss(model(batches[0]), dense(batches[0])) < 0.3 * reference


def test_mlps_become_ffns_of_the_converter(model, batches):
    distil_projections(model, batches, Projections(epochs=1))
    found = find_feed_forwards(model)
    expected = [f"{block}.{path}" for block in (1, 2) for path in ("attention.qkv.query", "attention.qkv.key")]
    assert set(expected) < set(found)
    assert len(found) == 10, "eight projections and the blocks' two own"
    each = found["1.attention.qkv.query"]
    assert (each.hidden, each.activation, each.dropout) == (8, "relu", 0.05)


def test_residual_mlps_are_found_inside(model, batches):
    distil_projections(model, batches, Projections(epochs=1, residual=True, which=("value",)))
    assert set(find_feed_forwards(model)) == {
        "1.attention.qkv.value.inner",
        "1.mlp",
        "2.attention.qkv.value.inner",
        "2.mlp",
    }


def test_the_rest_of_the_model_stays(model, batches):
    before = copy.deepcopy(model.state_dict())
    distil_projections(model, batches[:1], Projections(epochs=1))
    after = model.state_dict()
    kept = [name for name in before if ".qkv." not in name and ".proj." not in name]
    assert len(kept) == len(before) - 8
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_error_and_sparsity_by_hand(model, batches):
    """A single batch and epoch: the reported error is that of the initial MLP, and AdamW's first step has size lr."""
    settings = Projections(
        which=("output",), epochs=1, dropout=0.0, lr=1e-3, sparsify=Sparsify("hoyer", 0.5, "constant")
    )
    dense = copy.deepcopy(model)
    paths = split_projections(dense)
    with recorded(dense, paths) as seen:
        dense(batches[0])
    first = copy.deepcopy(model)
    no_step = Projections(which=("output",), epochs=1, dropout=0.0, lr=1e-30, sparsify=PLAIN)
    errors = distil_projections(first, batches[:1], no_step)[0]
    distil_projections(model, batches[:1], settings)
    for path, error in errors.items():
        mlp, (tokens, target) = first.get_submodule(path), seen[path]
        assert error == pytest.approx(F.mse_loss(mlp(tokens), target).item())
        hidden = mlp.activation(mlp.up(tokens))
        loss = F.mse_loss(mlp.down(hidden), target) + 0.5 * square_hoyer(hidden)
        (gradient,) = torch.autograd.grad(loss, mlp.up.weight)
        moved = model.get_submodule(path).up.weight - mlp.up.weight * (1 - 1e-3 * 0.01)
        certain = gradient.abs() > 1e-3
        torch.testing.assert_close(moved[certain], -1e-3 * gradient.sign()[certain], rtol=1e-2, atol=1e-6)


def test_sparsity_loss_makes_neurons_silent(model, batches):
    shares = []
    for weight in (0.0, 0.1):
        changed = copy.deepcopy(model)
        settings = Projections(dropout=0.0, epochs=15, lr=0.02, sparsify=Sparsify("hoyer", weight, "linear"))
        distil_projections(changed, batches, settings)
        with recorded(changed, ["1.attention.qkv.query.activation"]) as seen:
            changed(batches[0])
        ((_, hidden),) = seen.values()
        shares.append(float((hidden == 0).double().mean()))
    assert shares[1] > shares[0] + 0.1


def test_same_seed_same_mlps(model, batches):
    twins = [copy.deepcopy(model) for _ in range(3)]
    for twin, seed in zip(twins, (0, 0, 1), strict=True):
        torch.rand(seed + 1)
        distil_projections(twin, batches, Projections(epochs=1), seed)
    first, second, other = (twin.get_submodule("1.attention.proj.up").weight for twin in twins)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_models_that_take_mappings(batches):
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)

        def forward(self, *, hidden: Tensor) -> Tensor:
            return self.attention(hidden, hidden, hidden)[0]

    model = Keyword()
    data = [{"hidden": batch.view(16, 8, 8)} for batch in batches]
    distil_projections(model, data, Projections(epochs=1))
    assert model.attention.query.up.bias is None
    assert model.training


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"which": ("keys",)}, "unknown kind of projection in projections.which 'keys'; did you mean 'key'"),
        ({"cost": 0.0}, "projections has cost 0,"),
        ({"dropout": 1.0}, "projections.dropout is 1;"),
        ({"activation": "gelu"}, "projections.sparsify.loss is 'hoyer', but projections.activation is 'gelu'"),
    ],
)
def test_wrong_settings_are_one_sentence(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        Projections(**options)


def test_a_model_without_attention_is_one_sentence(batches):
    with pytest.raises(ConfigurationError, match="the model Linear has no attention projection of the kinds query,"):
        distil_projections(nn.Linear(2, 2), batches)


def test_batches_that_can_be_read_only_once_are_refused(model, batches):
    with pytest.raises(ConfigurationError, match="only once"):
        distil_projections(model, iter(batches))
