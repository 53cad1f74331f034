"""Triton kernels for router-free sparsity: the exact top-p mask and a linear layer that skips masked channels.

Legend: N tokens, K input channels, D outputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_TOKENS = 8
CHUNK = 4096
LINEAR_DEPTH, LINEAR_COLUMNS = 32, 64
_INTEGERS = {torch.float32: (torch.int32, 31), torch.float16: (torch.int16, 15), torch.bfloat16: (torch.int16, 15)}


def top_p(values: Tensor, p: float, power: int) -> Tensor:
    """`neuron_masks.top_p_mask` for values [..., K] with power 1 or 2, without leaving the device."""
    values = values.contiguous()
    channels = values.shape[-1]
    mask = torch.empty(values.shape, dtype=torch.bool, device=values.device)
    integer, bits = _INTEGERS[values.dtype]
    chunk = min(CHUNK, triton.next_power_of_2(channels))
    if values.numel():
        bisect_top_p[(values.numel() // channels,)](
            values,
            values.view(integer),
            mask.view(torch.uint8),
            # a Python float would reach the kernel in fp32
            torch.full((1,), p, dtype=torch.float64, device=values.device),
            channels,
            power,
            bits,
            chunk,
            num_warps=max(1, chunk // 512),
        )
    return mask


def masked_linear(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`sparse_linear.sparse_linear` for x [N, K], 1 <= N <= MAX_TOKENS: reads only rows of weight some token uses.

    Sums are split over the channels and joined in a fixed order: equal inputs give equal outputs.
    """
    tokens, channels = x.shape
    outputs = weight.shape[1]
    # About four programs per SM of a Hopper (132), each with at least 256 channels.
    splits = max(1, min(triton.cdiv(528, triton.cdiv(outputs, LINEAR_COLUMNS)), triton.cdiv(channels, 256)))
    partial = torch.empty(splits, tokens, outputs, dtype=torch.float32, device=x.device)
    masked_products[(triton.cdiv(outputs, LINEAR_COLUMNS), splits)](
        x.contiguous(),
        mask.contiguous().view(torch.uint8),
        weight,
        partial,
        tokens,
        channels,
        outputs,
        triton.cdiv(channels, splits),
        triton.next_power_of_2(tokens),
        LINEAR_DEPTH,
        LINEAR_COLUMNS,
        num_warps=4,
    )
    total = partial.sum(0)
    return (total if bias is None else total + bias).to(x.dtype)


@triton.jit
def _mass(row, least, channels, FLOAT: tl.constexpr, POWER: tl.constexpr, BITS: tl.constexpr, CHUNK: tl.constexpr):
    """Sum of |v|^POWER in fp64, and largest code, over the entries of a row whose code is at least `least`."""
    mass = tl.zeros([], tl.float64)
    largest = tl.zeros([], tl.int32)
    first = 0
    while first < channels:
        index = first + tl.arange(0, CHUNK)
        code = tl.load(row + index, mask=index < channels, other=0) & ((1 << BITS) - 1)
        code = tl.where(code >= least, code, 0)
        magnitude = code.to(FLOAT, bitcast=True).to(tl.float64)
        if POWER == 2:
            magnitude *= magnitude
        mass += tl.sum(magnitude, axis=0)
        largest = tl.maximum(largest, tl.max(code.to(tl.int32), axis=0))
        first += CHUNK
    return mass, largest


@triton.jit
def bisect_top_p(values, codes, mask, share, channels, POWER: tl.constexpr, BITS: tl.constexpr, CHUNK: tl.constexpr):
    """mask [N, K]. One program per token; `codes` are the same floats read as integers, re-read for each bit."""
    start = tl.program_id(0).to(tl.int64) * channels
    row = codes + start
    FLOAT: tl.constexpr = values.dtype.element_ty
    whole, largest = _mass(row, 0, channels, FLOAT, POWER, BITS, CHUNK)
    wanted = tl.load(share) * whole
    threshold = tl.zeros([], tl.int32)
    step = 1 << (BITS - 1)
    while step > 0:
        reached, _ = _mass(row, threshold | step, channels, FLOAT, POWER, BITS, CHUNK)
        threshold = tl.where(reached >= wanted, threshold | step, threshold)
        step = step // 2
    threshold = tl.minimum(threshold, largest)
    first = 0
    while first < channels:
        index = first + tl.arange(0, CHUNK)
        code = tl.load(row + index, mask=index < channels, other=0) & ((1 << BITS) - 1)
        tl.store(mask + start + index, (code >= threshold).to(tl.uint8), mask=index < channels)
        first += CHUNK


@triton.jit
def masked_products(
    x,
    mask,
    weight,
    partial,
    tokens,
    channels,
    outputs,
    span,
    TOKENS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """partial [splits, N, D] fp32; split s sums `span` channels from s·span on. Grid (column blocks, splits)."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.arange(0, TOKENS)
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, channels)
    acc = tl.zeros([TOKENS, COLUMNS], tl.float32)
    while first < last:
        depth = first + tl.arange(0, DEPTH)
        inside = (rows < tokens)[:, None] & (depth < last)[None, :]
        cells = rows[:, None] * channels + depth[None, :]
        kept = tl.load(mask + cells, mask=inside, other=0) > 0
        inputs = tl.load(x + cells, mask=kept, other=0.0).to(tl.float32)
        used = tl.max(kept.to(tl.int32), axis=0) > 0
        within = used[:, None] & (columns < outputs)[None, :]
        block = tl.load(weight + depth[:, None].to(tl.int64) * outputs + columns[None, :], mask=within, other=0.0)
        acc += tl.sum(inputs[:, :, None] * block.to(tl.float32)[None, :, :], axis=1)
        first += DEPTH
    target = partial + (tl.program_id(1) * tokens + rows)[:, None] * outputs + columns[None, :]
    tl.store(target, acc, mask=(rows < tokens)[:, None] & (columns < outputs)[None, :])
