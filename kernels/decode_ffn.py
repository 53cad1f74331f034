"""Sparse FFN for a few tokens as one Triton launch that reads the weights of the experts in use once.

An FFN is a sum over neurons, so a program takes blocks of neurons from start to finish: dot products with the up
(and gate) rows, activation, and an axpy of the down rows into registers. There is no plan: each program finds the
experts in use from the mask. Programs meet in one fp32 reduction of the output; the last to arrive adds the bias
and rounds. The order of that reduction is not fixed, so results can differ in the last bits of fp32.

Legend: N tokens, D model width, E experts, M neurons per expert.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cl_ac.kernels.activation import activate
from cl_ac.kernels.experts import Experts

MAX_TOKENS = 8
_MAX_VALUES = 16384


def _padded_values(tokens: int, width: int) -> int:
    return triton.next_power_of_2(tokens) * triton.next_power_of_2(width)


def fits(tokens: int, width: int) -> bool:
    """Whether the fp32 sum [N, D] stays in registers: beyond _MAX_VALUES every block size spills on sm_80 or sm_90."""
    return 0 < tokens <= MAX_TOKENS and _padded_values(tokens, width) <= _MAX_VALUES


def decode_blocks(tokens: int, width: int) -> tuple[int, int]:
    """(neurons per block, warps): compiled for sm_80 and sm_90 none of them spills (tests/kernels/test_compile.py)."""
    values = _padded_values(tokens, width)
    return (4, max(4, min(8, values // 512))) if values < _MAX_VALUES else (2, 16)


def decode_ffn(x: Tensor, mask: Tensor, experts: Experts) -> Tensor:
    """FFN over the experts each token asks for.

    Args:
        x: [N, D], contiguous, with `fits(N, D)`.
        mask: [N, E], bool, contiguous.

    Returns:
        [N, D] in x's dtype.
    """
    tokens, width = x.shape
    count, neurons, _ = experts.up.shape
    neuron_block, warps = decode_blocks(tokens, width)
    interpreted = x.device.type == "cpu"
    # Each program ends with N·D additions to memory, so there are only as many as fill the device.
    programs = 3 if interpreted else 2 * torch.cuda.get_device_properties(x.device).multi_processor_count
    workspace = torch.zeros(tokens * width + 1, dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    decode[(programs,)](
        x,
        mask.view(torch.uint8),
        experts.up,
        experts.up_bias,
        experts.gate,
        experts.gate_bias,
        experts.down,
        experts.down_bias,
        workspace,
        workspace[tokens * width :].view(torch.int32),
        out,
        tokens,
        count,
        width,
        neurons,
        experts.activation,
        triton.next_power_of_2(tokens),
        triton.next_power_of_2(count),
        triton.next_power_of_2(width),
        neuron_block,
        num_warps=warps,
    )
    return out


@triton.jit
def _project(inputs, weight, bias, rows, columns, known, WIDTH: tl.constexpr):
    """Dot products [N, block] of every token's inputs [N, D] with the block's rows of weight, plus bias, in fp32."""
    within = known[:, None] & (columns < WIDTH)[None, :]
    block = tl.load(weight + rows[:, None] * WIDTH + columns[None, :], mask=within, other=0.0).to(tl.float32)
    result = tl.sum(inputs[:, None, :] * block[None, :, :], axis=2)
    if bias is not None:
        result += tl.load(bias + rows, mask=known, other=0.0).to(tl.float32)[None, :]
    return result


@triton.jit
def decode(
    x,
    mask,
    up,
    up_bias,
    gate,
    gate_bias,
    down,
    down_bias,
    total,
    arrived,
    out,
    TOKENS: tl.constexpr,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TOKENS_PADDED: tl.constexpr,
    EXPERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out [N, D], with total [N·D] fp32 and arrived [1] int32 zeroed beforehand. Any grid (programs,)."""
    BLOCKS: tl.constexpr = (NEURONS + BLOCK - 1) // BLOCK
    every = tl.arange(0, EXPERTS)
    used = tl.zeros([EXPERTS], tl.int32)
    for token in tl.static_range(TOKENS):
        used |= tl.load(mask + token * COUNT + every, mask=every < COUNT, other=0).to(tl.int32)
    place = tl.cumsum(used, axis=0)
    blocks = tl.sum(used, axis=0) * BLOCKS

    tokens = tl.arange(0, TOKENS_PADDED)
    columns = tl.arange(0, COLUMNS)
    cells = tokens[:, None] * WIDTH + columns[None, :]
    inside = (tokens < TOKENS)[:, None] & (columns < WIDTH)[None, :]
    inputs = tl.load(x + cells, mask=inside, other=0.0).to(tl.float32)
    acc = tl.zeros([TOKENS_PADDED, COLUMNS], tl.float32)
    work = tl.program_id(0)
    while work < blocks:
        expert = tl.sum(tl.where((used > 0) & (place == work // BLOCKS + 1), every, 0), axis=0)
        neurons = (work % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
        known = neurons < NEURONS
        rows = expert.to(tl.int64) * NEURONS + neurons
        value = _project(inputs, up, up_bias, rows, columns, known, WIDTH)
        if gate is not None:
            value *= activate(_project(inputs, gate, gate_bias, rows, columns, known, WIDTH), ACTIVATION)
        else:
            value = activate(value, ACTIVATION)
        wanted = tl.load(mask + tokens * COUNT + expert, mask=tokens < TOKENS, other=0)
        value = tl.where((wanted > 0)[:, None] & known[None, :], value, 0.0)
        within = known[:, None] & (columns < WIDTH)[None, :]
        block = tl.load(down + rows[:, None] * WIDTH + columns[None, :], mask=within, other=0.0).to(tl.float32)
        acc += tl.sum(value[:, :, None] * block[None, :, :], axis=1)
        work += tl.num_programs(0)

    if tl.program_id(0) < blocks:
        tl.atomic_add(total + cells, acc, mask=inside, sem="relaxed")
    tl.debug_barrier()  # every thread's additions come before this program's arrival
    if tl.atomic_add(arrived, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        result = tl.load(total + cells, mask=inside, other=0.0, cache_modifier=".cg")
        if down_bias is not None:
            result += tl.load(down_bias + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)[None, :]
        tl.store(out + cells, result.to(out.dtype.element_ty), mask=inside)
