"""Masks over single channels or neurons, for sparsity without a router.

Legend: K entries of a vector, one vector per token.
"""

import numpy as np
import torch
from torch import Tensor

# The bits of non-negative floats order like integers, with NaNs last.
_INTEGERS = {torch.float32: (torch.int32, 31), torch.float16: (torch.int16, 15), torch.bfloat16: (torch.int16, 15)}


def threshold_mask(values: Tensor, threshold: Tensor | float) -> Tensor:
    """Keeps entries whose magnitude exceeds the threshold (TEAL: Liu et al., 2024, arXiv 2408.14690).

    Args:
        values: [..., K].
        threshold: a number, or a tensor that broadcasts to `values`.

    Returns:
        [..., K], bool.
    """
    return values.abs() > threshold


def top_p_mask(values: Tensor, p: float, power: float = 1.0) -> Tensor:
    """Keeps the smallest set of largest entries whose mass reaches p of the whole (arXiv 2509.00454).

    The mass of an entry is |v|^power, summed in float64. Ties with the smallest kept entry are kept; p = 0 keeps the
    maximum, p = 1 all but exact zeros; a vector with a NaN, or of zeros alone, is kept whole. On a GPU there is no
    sort: bisection over the bits finds the exact threshold.

    Args:
        values: [..., K], fp32, fp16 or bf16.
        p: share of the mass, in [0, 1].
        power: 1 for magnitude, 2 for energy.

    Returns:
        [..., K], bool.

    Raises:
        ValueError: for p outside [0, 1], a power that is not positive, or another dtype.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; expected a share in [0, 1]")
    if power <= 0:
        raise ValueError(f"power is {power}; expected a positive number")
    if values.dtype not in _INTEGERS:
        raise ValueError(f"values are {values.dtype}; supported: {', '.join(map(str, _INTEGERS))}")
    return top_p_mask_op(values, p, power)


@torch.library.custom_op("cl_ac::top_p_mask", mutates_args=())
def top_p_mask_op(values: Tensor, p: float, power: float) -> Tensor:
    """`top_p_mask` on checked arguments."""
    if values.device.type == "cuda" and power in (1, 2):
        # imported here because Triton exists on Linux only
        from cl_ac.kernels.channel_kernels import top_p

        with torch.cuda.device_of(values):
            return top_p(values, p, int(power))
    return _sorted_top_p(values.contiguous(), p, power)


@top_p_mask_op.register_fake
def _(values: Tensor, p: float, power: float) -> Tensor:
    return torch.empty_like(values, dtype=torch.bool, memory_format=torch.contiguous_format)


def _sorted_top_p(values: Tensor, p: float, power: float) -> Tensor:
    integer, bits = _INTEGERS[values.dtype]
    if not values.numel():
        return torch.empty_like(values, dtype=torch.bool)
    codes = values.view(integer) & ((1 << bits) - 1)
    ordered = _ascending(codes)
    # The smallest come first: what they are told apart by is not lost beside the largest.
    mass = ordered.view(values.dtype).double().pow_(power).cumsum(-1)
    whole = mass[..., -1:]
    # Infinite entries are all that counts beside them; with a NaN nothing may be dropped.
    droppable = torch.where(whole.isinf(), whole, whole - p * whole)
    dropped = (mass <= droppable).sum(-1, keepdim=True).clamp_(max=codes.shape[-1] - 1)
    return codes >= ordered.gather(-1, dropped)


def _ascending(codes: Tensor) -> Tensor:
    """Each row [..., K] sorted; on a CPU by NumPy, which does that with vector instructions."""
    return torch.from_numpy(np.sort(codes.numpy(), -1)) if codes.device.type == "cpu" else codes.sort(-1).values
