import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.kernels.sparse_linear import sparse_linear

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = [
    "dense",
    "torch",
    "auto",
    *(["interpreter"] if INTERPRETED else []),
    *(["triton"] if torch.cuda.is_available() and not INTERPRETED else []),
]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    tokens=st.integers(0, 8),
    channels=st.one_of(st.integers(1, 70), st.just(600)),
    outputs=st.integers(1, 130),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(list(TOLERANCE)),
    biased=st.booleans(),
)
def test_agrees_with_float64(
    backend: str, tokens: int, channels: int, outputs: int, share: float, dtype: torch.dtype, biased: bool
):
    device = "cuda" if backend == "triton" else "cpu"
    x, mask = torch.randn(tokens, channels).to(dtype), torch.rand(tokens, channels) < share
    weight = (torch.randn(channels, outputs) / channels**0.5).to(dtype)
    bias = torch.randn(outputs).to(dtype) if biased else None
    out = sparse_linear(
        x.to(device), mask.to(device), weight.to(device), None if bias is None else bias.to(device), backend
    )
    expected = (
        torch.zeros(tokens, outputs, dtype=torch.float64) if bias is None else bias.double().expand(tokens, outputs)
    )
    expected = expected + (x.double() * mask) @ weight.double()
    assert out.dtype == dtype
    assert (out.cpu().double() - expected).norm() <= TOLERANCE[dtype] * expected.norm().clamp(min=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_channels_may_hold_infinity(backend: str):
    device = "cuda" if backend == "triton" else "cpu"
    x = torch.tensor([[1.0, torch.inf, 2.0]], device=device)
    out = sparse_linear(x, x.isfinite(), torch.ones(3, 2, device=device), backend=backend)
    assert out.tolist() == [[3.0, 3.0]]


def test_compiles_whole_and_keeps_leading_axes():
    weight, bias = torch.randn(6, 4), torch.randn(4)
    compiled = torch.compile(
        lambda x: sparse_linear(x, x > 0, weight, bias, "torch") + 1, fullgraph=True, backend="aot_eager"
    )
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(compiled(x), x.relu() @ weight + bias + 1)


@pytest.mark.parametrize(
    ("x", "mask", "weight", "message"),
    [
        ((2, 3), (2, 4), (3, 5), r"mask is torch.bool \(2, 4\); expected torch.bool \(2, 3\)"),
        ((2, 3), (2, 3), (4, 5), r"weight has shape \(4, 5\); expected contiguous \[3, outputs\]"),
    ],
)
def test_rejects_shapes_that_do_not_fit(x: tuple, mask: tuple, weight: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        sparse_linear(torch.zeros(x), torch.zeros(mask, dtype=torch.bool), torch.zeros(weight))


def test_rejects_backends_that_cannot_run():
    x, mask, weight = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), torch.zeros(3, 5)
    with pytest.raises(ValueError, match="unknown backend 'cpu'; known: auto, torch"):
        sparse_linear(x, mask, weight, backend="cpu")
    with pytest.raises(ValueError, match="needs a GPU"):
        sparse_linear(x, mask, weight, backend="triton")
