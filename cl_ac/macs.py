"""Counted multiply-accumulates (MACs)."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Result = TypeVar("Result")


@torch.no_grad()
def counted(run: Callable[[], Result]) -> tuple[float, Result]:
    """The MACs of the matrix products and convolutions in `run`, and what it returns.

    Element-wise work and normalisation are not counted.
    """
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    # Fused attention is invisible to the counter: that of modules always, other kernels in some releases.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return counter.get_total_flops() / 2, result
