import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from cl_ac.kernels.cost import Usage
from cl_ac.kernels.experts import Experts
from cl_ac.kernels.sparse_ffn import chosen_backend, sparse_ffn, sparse_ffn_op

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = [
    "dense",
    "torch",
    "auto",
    *(["interpreter"] if INTERPRETED else []),
    *(["triton"] if torch.cuda.is_available() and not INTERPRETED else []),
]
# relative Frobenius error; a bf16 has 8 bits, and the interpreter truncates to it where devices round
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda pre: F.gelu(pre, approximate="tanh"),
    "silu": F.silu,
}


def slow_twin(x: Tensor, mask: Tensor, experts: Experts) -> Tensor:
    """Token by token, expert by expert, in float64: [N, D]."""
    up, down, activation, up_bias, down_bias, gate, gate_bias = (
        part.double() if isinstance(part, Tensor) else part for part in experts
    )
    rows = []
    for token, wanted in zip(x.double(), mask, strict=True):
        row = torch.zeros_like(token) if down_bias is None else down_bias.clone()
        for e in wanted.nonzero()[:, 0].tolist():
            hidden = up[e] @ token
            if up_bias is not None:
                hidden = hidden + up_bias[e]
            if gate is None:
                hidden = ACTIVATIONS[activation](hidden)
            else:
                opening = gate[e] @ token
                if gate_bias is not None:
                    opening = opening + gate_bias[e]
                hidden = ACTIVATIONS[activation](opening) * hidden
            row = row + hidden @ down[e]
        rows.append(row)
    return torch.stack(rows) if rows else x.double()


def make_experts(
    count: int, neurons: int, width: int, activation: str, gated: bool, biased: bool, dtype: torch.dtype, seed: int
) -> Experts:
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(dtype)

    return Experts(
        weight(count, neurons, width),
        weight(count, neurons, width),
        activation,
        weight(count, neurons) if biased else None,
        weight(width) if biased else None,
        weight(count, neurons, width) if gated else None,
        weight(count, neurons) if gated and biased else None,
    )


def make_mask(kind: str, tokens: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "random":
        return torch.rand(tokens, count, generator=generator) < torch.rand((), generator=generator)
    mask = torch.full((tokens, count), kind == "all")
    if kind == "one expert":
        mask[:, torch.randint(count, (), generator=generator)] = True
    if kind == "one pair" and tokens:
        mask[-1, -1] = True
    return mask


def relative_error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.norm().clamp(min=1e-3)
    return float((actual.cpu().double() - expected).norm() / scale)


@st.composite
def calls(draw) -> tuple[Tensor, Tensor, Experts]:
    tokens = draw(st.one_of(st.integers(0, 4), st.integers(5, 80)))
    count, neurons, width = draw(st.integers(1, 7)), draw(st.integers(1, 20)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    seed = draw(st.integers(0, 2**16))
    experts = make_experts(
        count,
        neurons,
        width,
        draw(st.sampled_from(list(ACTIVATIONS))),
        draw(st.booleans()),
        draw(st.booleans()),
        dtype,
        seed,
    )
    mask = make_mask(draw(st.sampled_from(["random", "none", "all", "one expert", "one pair"])), tokens, count, seed)
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    return x, mask, experts


def on(device: str, experts: Experts) -> Experts:
    return Experts(*(part.to(device) if isinstance(part, Tensor) else part for part in experts))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(call=calls())
def test_agrees_with_the_slow_twin(backend: str, call: tuple[Tensor, Tensor, Experts]):
    x, mask, experts = call
    device = "cuda" if backend == "triton" else "cpu"
    out = sparse_ffn(x.to(device), mask.to(device), on(device, experts), backend)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert relative_error(out, slow_twin(x, mask, experts)) < TOLERANCE[x.dtype]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tokens", [2, 21])
def test_an_expert_nobody_asked_for_may_be_infinite(backend: str, tokens: int):
    device = "cuda" if backend == "triton" else "cpu"
    experts = make_experts(3, 4, 5, "relu", False, True, torch.float32, 0)
    experts.up[1] = torch.inf
    mask = torch.tensor([True, False, True]).expand(tokens, 3)
    out = sparse_ffn(torch.ones(tokens, 5, device=device), mask.to(device), on(device, experts), backend)
    assert out.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_calls_give_equal_bits_for_many_tokens(backend: str):
    device = "cuda" if backend == "triton" else "cpu"
    experts = on(device, make_experts(5, 8, 16, "gelu", True, True, torch.float32, 3))
    x, mask = torch.randn(70, 16, device=device), make_mask("random", 70, 5, 1).to(device)
    assert torch.equal(sparse_ffn(x, mask, experts, backend), sparse_ffn(x, mask, experts, backend))


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "glu"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_all_experts_are_the_dense_ffn(activation: str, gated: bool):
    experts = make_experts(4, 6, 10, activation, gated, True, torch.float32, 5)
    x = torch.randn(9, 10)
    hidden = F.linear(x, experts.up.view(24, 10), experts.up_bias.view(24))
    if gated:
        hidden = ACTIVATIONS[activation](F.linear(x, experts.gate.view(24, 10), experts.gate_bias.view(24))) * hidden
    else:
        hidden = ACTIVATIONS[activation](hidden)
    dense = F.linear(hidden, experts.down.view(24, 10).t(), experts.down_bias)
    torch.testing.assert_close(sparse_ffn(x, torch.ones(9, 4, dtype=torch.bool), experts, "torch"), dense)


def test_leading_axes_and_strided_inputs():
    experts = make_experts(3, 4, 6, "silu", True, False, torch.float32, 2)
    x, mask = torch.randn(6, 5, 2).permute(2, 1, 0), make_mask("random", 10, 3, 4).view(5, 2, 3).transpose(0, 1)
    out = sparse_ffn(x, mask, experts, "torch")
    assert relative_error(out.reshape(10, 6), slow_twin(x.reshape(10, 6), mask.reshape(10, 3), experts)) < 2e-6


@pytest.mark.parametrize("backend", ["dense", "torch"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("gated", "activation"), [(False, "relu"), (False, "gelu"), (True, "silu"), (True, "gelu_tanh")]
)
def test_gradients_of_x_and_every_weight(backend: str, biased: bool, gated: bool, activation: str):
    experts = make_experts(4, 5, 7, activation, gated, biased, torch.float32, 11)
    x, mask = torch.randn(13, 7), make_mask("random", 13, 4, 8)
    mask[:, 2] = False
    mask[:, 3] = True
    weights = [part for part in (x, *experts) if isinstance(part, Tensor)]
    for weight in weights:
        weight.requires_grad_()
    probe = torch.randn(13, 7)
    actual = torch.autograd.grad((sparse_ffn(x, mask, experts, backend) * probe).sum(), weights)
    expected = torch.autograd.grad((slow_twin(x, mask, experts) * probe).sum(), weights)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_gradients_without_host_synchronisation_agree():
    """On a GPU the backward pass runs all experts under the mask; it must give what the grouped one gives."""
    from cl_ac.kernels.torch_ffn import gradients

    experts = make_experts(4, 5, 7, "silu", True, True, torch.float32, 11)
    x, mask, grad = torch.randn(13, 7), make_mask("random", 13, 4, 8), torch.randn(13, 7)
    ours_x, ours = gradients(grad, x, mask, experts, grouped=False)
    theirs_x, theirs = gradients(grad, x, mask, experts, grouped=True)
    for a, b in zip((ours_x, *ours), (theirs_x, *theirs), strict=True):
        assert a == b if isinstance(a, str) else torch.allclose(a, b, atol=1e-5)


def test_compiled_whole_with_gradients():
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    experts.up.requires_grad_()

    def layer(x: Tensor, mask: Tensor) -> Tensor:
        return sparse_ffn(x * 2, mask, experts, "torch").tanh()

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, 17):
        x, mask = torch.randn(tokens, 6), make_mask("random", tokens, 3, tokens)
        torch.testing.assert_close(compiled(x, mask), layer(x, mask))
        (ours,) = torch.autograd.grad(compiled(x, mask).sum(), [experts.up])
        (eager,) = torch.autograd.grad(layer(x, mask).sum(), [experts.up])
        torch.testing.assert_close(ours, eager)


def executed_operators(call) -> set[str]:
    """Names of the operators that ran."""
    with torch.profiler.profile() as profile:
        call()
    return {event.key for event in profile.key_averages()}


def test_plain_inference_goes_without_the_custom_op():
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    experts.up.requires_grad_()
    x, mask = torch.randn(1, 6), make_mask("random", 1, 3, 1)
    with torch.no_grad():
        names = executed_operators(lambda: sparse_ffn(x, mask, experts, "torch"))
    assert "aten::mm" in names or "aten::addmm" in names
    assert "cl_ac::sparse_ffn" not in names
    assert "cl_ac::sparse_ffn" in executed_operators(lambda: sparse_ffn(x, mask, experts, "torch"))


@pytest.mark.parametrize("tokens", [1, 5])
def test_tracers_see_one_operator(tokens: int):
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    x, mask = torch.randn(tokens, 6), make_mask("all", tokens, 3, 1)
    graph = make_fx(lambda x, mask: sparse_ffn(x, mask, experts, "torch"))(x, mask)
    assert torch.ops.cl_ac.sparse_ffn.default in {node.target for node in graph.graph.nodes}
    other = make_mask("one expert", tokens, 3, 1)
    torch.testing.assert_close(graph(x, other), sparse_ffn(x, other, experts, "torch"))


def test_fake_tensors_have_the_shape_and_no_data():
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    x, mask = torch.randn(1, 6), make_mask("random", 1, 3, 1)
    mode = FakeTensorMode()
    fake = Experts(*(mode.from_tensor(part) if isinstance(part, Tensor) else part for part in experts))
    out = sparse_ffn(mode.from_tensor(x), mode.from_tensor(mask), fake, "torch")
    assert isinstance(out, FakeTensor)
    assert out.shape == x.shape


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap():
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    x, mask = torch.randn(5, 1, 6), make_mask("random", 5, 3, 1).unsqueeze(1)
    mapped = torch.vmap(lambda x, mask: sparse_ffn(x, mask, experts, "torch"))(x, mask)
    torch.testing.assert_close(mapped, sparse_ffn(x, mask, experts, "torch"))


@pytest.mark.parametrize("backend", ["dense", "torch"])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("trained", [False, True])
def test_autocast_leaves_dtypes_alone(backend: str, tokens: int, trained: bool):
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    x, mask = torch.randn(tokens, 6, requires_grad=trained), make_mask("random", tokens, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_ffn(x, mask, experts, backend)
    assert out.dtype == torch.float32
    assert torch.equal(out, sparse_ffn(x, mask, experts, backend))


def test_one_token_with_scattered_and_neighbouring_experts():
    experts = make_experts(7, 4, 6, "silu", True, False, torch.float32, 2)
    x, mask = torch.randn(1, 6), torch.tensor([[True, False, True, True, False, False, True]])
    assert relative_error(sparse_ffn(x, mask, experts, "torch"), slow_twin(x, mask, experts)) < 2e-6


def test_custom_op_contract():
    experts = make_experts(3, 4, 6, "gelu", True, True, torch.float32, 2)
    x = torch.randn(5, 6, requires_grad=True)
    torch.library.opcheck(sparse_ffn_op, (x, make_mask("random", 5, 3, 1), *experts, "torch", []))


def test_auto_takes_the_mask_s_own_usage_on_a_cpu():
    experts = make_experts(24, 128, 768, "relu", False, True, torch.float32, 0)
    x = torch.empty(1576, 768)
    assert chosen_backend(x, torch.ones(1576, 24, dtype=torch.bool), experts, None) == "dense"
    sparse = torch.zeros(1576, 24, dtype=torch.bool)
    sparse[:, :3] = True
    assert chosen_backend(x, sparse, experts, None) == "torch"
    assert chosen_backend(x, sparse, experts, Usage(1.0, 1.0, 1.0)) == "dense"


@pytest.mark.parametrize(("device", "sparse"), [("cuda", "triton"), ("meta", "torch")])
def test_auto_without_usage_is_dense_away_from_the_cpu(device, sparse):
    with FakeTensorMode():
        experts = Experts(torch.empty(24, 128, 768, device=device), torch.empty(24, 128, 768, device=device))
        x, mask = torch.empty(50432, 768, device=device), torch.empty(50432, 24, dtype=torch.bool, device=device)
        assert chosen_backend(x, mask, experts, None) == "dense"
        assert chosen_backend(x, mask, experts, Usage(0.05, 0.1, 1.0)) == sparse


def test_errors_name_everything_that_is_wrong():
    experts = make_experts(3, 4, 6, "relu", False, True, torch.float32, 2)._replace(activation="swish")
    with pytest.raises(ValueError, match=r"'swish'.*width 5.*torch.int64.*shape \(2, 4\)") as error:
        sparse_ffn(torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.int64), experts)
    assert "expected (2, 3)" in str(error.value)


def test_errors_of_backends():
    experts = make_experts(3, 4, 6, "relu", False, True, torch.float32, 2)
    x, mask = torch.zeros(2, 6), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="unknown backend 'cuda'; known: auto, torch"):
        sparse_ffn(x, mask, experts, "cuda")
    with pytest.raises(ValueError, match="needs a GPU"):
        sparse_ffn(x, mask, experts, "triton")
    if not INTERPRETED:
        with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
            sparse_ffn(x, mask, experts, "interpreter")
