import copy

import pytest
import torch
from torch import nn

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.backbones.vit import MLP
from cl_ac.efficiency.dynamic import (
    DynamicFFN,
    descriptions,
    dynamic_ffns,
    insert_described,
    measure_usage,
    recording,
    set_gate,
    usage_map,
)
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import NormRouter
from cl_ac.efficiency.split import expert_weights, random_split
from cl_ac.errors import DataError
from cl_ac.kernels.experts import dense_ffn


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = MLP(6, 16, "relu", dropout=0.2), MLP(6, 16, "relu")

    def forward(self, x):
        return x + self.second(self.first(x))


def converted(dense: nn.Module, experts: int = 8, **options) -> nn.Module:
    model = copy.deepcopy(dense)
    for ffn in find_feed_forwards(model).values():
        weights = expert_weights(ffn, random_split(ffn.hidden, experts, stream()))
        router = NormRouter(6, experts, 4, 2, stream(1)).to(ffn.up.dtype)
        dropouts = {"dropout": ffn.dropout, "hidden_dropout": ffn.hidden_dropout}
        ffn.replace(model, DynamicFFN(weights, router, hidden=ffn.hidden, **dropouts, **options))
    return model


@pytest.fixture
def dense() -> nn.Module:
    torch.manual_seed(0)
    return Model().eval()


X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("experts", [8, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("gate", [Gate("all"), Gate("max", 0.0), Gate("top_k", 99)])
def test_all_experts_are_the_dense_model(dense, gate, dtype, tolerance, experts):
    dense = dense.to(dtype)
    model = converted(dense, experts)
    set_gate(model, gate)
    expected = dense(X.to(dtype))
    assert (model(X.to(dtype)) - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("backend", ["auto", "torch", "dense"])
@pytest.mark.parametrize("bundle", [1, 4])
def test_only_chosen_experts_count(dense, backend, bundle):
    model = converted(dense, backend=backend, bundle=bundle)
    ffn = model.first
    ffn.gate = Gate("top_k", 3)
    mask = ffn.gate.mask(ffn.router(X)).flatten(0, -2)
    expected = dense_ffn(X.flatten(0, -2), mask, ffn.experts).view(X.shape)
    torch.testing.assert_close(ffn(X), expected)
    if bundle > 1:
        ffn.union = True
        union = mask.view(-1, 2, 4).any(-1).repeat_interleave(4, 1)
        torch.testing.assert_close(ffn(X), dense_ffn(X.flatten(0, -2), union, ffn.experts).view(X.shape))


def test_recordings_count_what_runs_and_end_with_the_context(dense):
    model = converted(dense)
    set_gate(model, Gate("top_k", 3))
    with recording(model) as recordings:
        model(X)
        model(X[:1])
    assert [tuple(counts.shape) for counts in recordings["first"].counts] == [(3, 5), (1, 5)]
    assert all((counts == 3).all() for counts in recordings["second"].counts)
    mask = model.first.gate.mask(model.first.router(X))
    again = model.first.gate.mask(model.first.router(X[:1]))
    assert torch.equal(recordings["first"].load, mask.flatten(0, 1).sum(0) + again.flatten(0, 1).sum(0))
    assert model.first.recording is None


def test_recordings_of_bundles_count_idle_members(dense):
    model = converted(dense, bundle=4)
    set_gate(model, Gate("top_k", 1))
    with recording(model) as recordings:
        model(X)
    assert (recordings["first"].counts[0] == 4).all()
    assert recordings["first"].load.sum() == 15


def test_measured_usage_is_kept_until_the_gate_changes(dense):
    model = converted(dense)
    set_gate(model, Gate("top_k", 2))
    measure_usage(model, X)
    assert model.first.usage.pairs == pytest.approx(2 / 8)
    set_gate(model, Gate("top_k", 3))
    assert model.first.usage is None


def test_usage_is_measured_on_named_arguments_too(dense):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = converted(dense)

        def forward(self, images):
            return self.inner(images)

    model = Named()
    set_gate(model, Gate("top_k", 2))
    measure_usage(model, {"images": X})
    assert model.inner.first.usage.pairs == pytest.approx(2 / 8)


def test_dropout_of_the_output_is_kept(dense):
    model = converted(dense).train()
    set_gate(model, Gate("all"))
    assert (model.first(X) == 0).double().mean().item() == pytest.approx(0.2, abs=0.15)
    assert not (model.eval().first(X) == 0).any()


@pytest.mark.parametrize("gate", [Gate("all"), Gate("top_k", 8), Gate("top_k", 3)])
@pytest.mark.parametrize("options", [{}, {"bundle": 4}, {"bundle": 4, "union": True}])
def test_hidden_neurons_are_dropped_in_training_as_in_the_dense_ffn(gate, options):
    """Neuron by neuron, since both draw the same mask when the experts keep the order of the neurons."""
    torch.manual_seed(0)
    mlp = MLP(6, 16, "relu", dropout=0.5).train()
    (ffn,) = find_feed_forwards(nn.Sequential(mlp)).values()
    weights = expert_weights(ffn, torch.arange(16).view(8, 2))
    router = NormRouter(6, 8, 4, 2, stream(1))
    made = DynamicFFN(weights, router, gate, ffn.dropout, hidden_dropout=ffn.hidden_dropout, **options).train()
    x = torch.randn(40, 6, generator=stream(2))
    mask = gate.mask(router(x))
    if options.get("union"):
        mask = mask.view(-1, 2, 4).any(-1).repeat_interleave(4, -1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        dropped = mlp.drop(torch.relu(mlp.up(x)))
        expected = mlp.drop(mlp.down(dropped * mask.repeat_interleave(2, -1)))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.testing.assert_close(made(x), expected)
    made.eval()
    kept = torch.relu(mlp.up(x)) * mask.repeat_interleave(2, -1)
    torch.testing.assert_close(made(x), mlp.down(kept))


def test_files_without_hidden_dropout_are_read(dense):
    description = converted(dense).first.description()
    del description["hidden_dropout"]
    assert DynamicFFN.described(description).hidden_dropout == 0


def test_each_ffn_may_have_its_own_gate(dense):
    model = converted(dense)
    set_gate(model, {"first": Gate("top_k", 2), "second": Gate("max", 0.5)})
    assert (model.first.gate, model.second.gate) == (Gate("top_k", 2), Gate("max", 0.5))


def test_gradients_reach_inputs_and_chosen_experts(dense):
    model = converted(dense)
    set_gate(model, Gate("top_k", 3))
    x = X.clone().requires_grad_()
    model.first(x).square().sum().backward()
    mask = model.first.gate.mask(model.first.router(X))
    reference = X.clone().requires_grad_()
    experts = model.first.experts
    up, down = (weight.detach().clone().requires_grad_() for weight in (experts.up, experts.down))
    hidden = (torch.einsum("btd,emd->btem", reference, up) + experts.up_bias.detach()).relu() * mask[..., None]
    (torch.einsum("btem,emd->btd", hidden, down) + experts.down_bias.detach()).square().sum().backward()
    torch.testing.assert_close(x.grad, reference.grad)
    torch.testing.assert_close(model.first.up.grad, up.grad)
    torch.testing.assert_close(model.first.down.grad, down.grad)


def test_half_precision_outside_meets_float32_weights(dense):
    model = converted(dense)
    output = model.first(X.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), model.first(X.bfloat16().float()), atol=0.02, rtol=0.02)


def test_a_compiled_model_computes_the_same(dense):
    model = converted(dense)
    set_gate(model, Gate("top_k", 3))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), model(X))


def test_a_dense_copy_becomes_the_converted_model_by_its_description(dense):
    model = converted(dense, 5, bundle=1)
    model.second.activation = "silu"
    set_gate(model, Gate("cumulative", 0.6))
    fresh = copy.deepcopy(dense)
    insert_described(fresh, descriptions(model))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(X), model(X))
    assert dynamic_ffns(fresh)["first"].dropout == dynamic_ffns(fresh)["first"].hidden_dropout == 0.2
    with pytest.raises(DataError, match="an FFN at 'first', which Linear lacks"):
        insert_described(nn.Linear(2, 2), descriptions(model))


def test_maps_leave_out_the_class_token():
    counts = torch.arange(10)[None]
    assert usage_map(counts).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
    assert usage_map(counts[:, :9]).tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]
    with pytest.raises(ValueError, match="12 tokens are no square"):
        usage_map(torch.zeros(1, 12))
