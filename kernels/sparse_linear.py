"""Linear layer that skips input channels: the execution side of the masks in `neuron_masks`.

Legend: N tokens, K input channels, D outputs.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "torch", "triton", "interpreter", "dense"]

# Gathering rows reads them, writes them and reads them again, so it needs fewer than a third of them; measured even at
# 0.25 (AMD EPYC, 2 threads, K=14336, D=4096, one token, fp32, November 2026).
_GATHER_BELOW = 0.25


def sparse_linear(
    x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None, backend: Backend = "auto"
) -> Tensor:
    """(x * mask) @ weight + bias, without reading the rows of weight that no token uses.

    With `weight` a down-projection [neurons, width] it skips neurons; with the transpose of an up-projection's
    [neurons, width] it skips input channels. It pays for few tokens only: their masks' union is what is read.
    For inference; gradients are not defined.

    Args:
        x: [..., K], fp32, fp16 or bf16.
        mask: [..., K], bool.
        weight: [K, D], contiguous, in x's dtype.
        bias: [D] or None.
        backend: `torch` gathers the rows in use; `triton` needs a GPU, `interpreter` a process started with
            TRITON_INTERPRET=1, both at most `channel_kernels.MAX_TOKENS` tokens; `dense` reads everything; `auto` takes
            the device's way where it pays.

    Returns:
        [..., D] in x's dtype.

    Raises:
        ValueError: shapes, dtypes or names that do not fit; a backend the device or the number of tokens rules out.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(get_args(Backend))}")
    if mask.shape != x.shape or mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype} {tuple(mask.shape)}; expected torch.bool {tuple(x.shape)}")
    if weight.dim() != 2 or len(weight) != x.shape[-1] or not weight.is_contiguous():
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected contiguous [{x.shape[-1]}, outputs]")
    if bias is not None and bias.shape != weight.shape[1:]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; expected {tuple(weight.shape[1:])}")
    out = sparse_linear_op(x.reshape(-1, len(weight)), mask.reshape(-1, len(weight)), weight, bias, backend)
    return out.view(*x.shape[:-1], weight.shape[1])


@torch.library.custom_op("cl_ac::sparse_linear", mutates_args=())
def sparse_linear_op(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    """`sparse_linear` on checked arguments, x and mask [N, K]."""
    if backend == "auto":
        backend = _chosen_backend(mask)
    if backend in ("triton", "interpreter") and len(x):
        return _triton_linear(x, mask, weight, bias, backend)
    x = x.masked_fill(~mask, 0)
    if backend == "torch":
        rows = mask.any(0).nonzero()[:, 0]
        x, weight = x.index_select(1, rows), weight.index_select(0, rows)
    return x @ weight if bias is None else torch.addmm(bias, x, weight)


@sparse_linear_op.register_fake
def _(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _chosen_backend(mask: Tensor) -> str:
    if mask.device.type == "cuda":
        from cl_ac.kernels.channel_kernels import MAX_TOKENS

        return "triton" if 0 < len(mask) <= MAX_TOKENS else "dense"
    return "torch" if mask.any(0).float().mean() < _GATHER_BELOW else "dense"


def _triton_linear(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    # imported here because Triton exists on Linux only
    import triton

    from cl_ac.kernels.channel_kernels import MAX_TOKENS, masked_linear, masked_products

    if backend == "triton" and x.device.type != "cuda":
        raise ValueError(f"backend 'triton' needs a GPU, x is on {x.device}; use 'torch' or 'auto'")
    if backend == "interpreter" and (x.device.type != "cpu" or isinstance(masked_products, triton.JITFunction)):
        raise ValueError("backend 'interpreter' needs CPU tensors and a process started with TRITON_INTERPRET=1")
    if len(x) > MAX_TOKENS:
        raise ValueError(f"backend {backend!r} takes at most {MAX_TOKENS} tokens, got {len(x)}; use 'dense' or 'auto'")
    with torch.cuda.device_of(x):
        return masked_linear(x, mask, weight, bias)
