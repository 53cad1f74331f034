"""Sparse FFN for many tokens as two Triton kernels: grouped up-projection, token-major down-projection.

The up kernel gathers the tokens of each expert and writes the activated neurons of every executed pair, compactly. The
down kernel owns a tile of tokens, walks the experts any of them uses and sums in registers: one rounding, no atomics
and no per-pair outputs, whose traffic would cost more than the products themselves in bf16 on Hopper.

Legend: N tokens, D model width, E experts, M neurons per expert, P executed (token, expert) pairs.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cl_ac.kernels.activation import activate
from cl_ac.kernels.cost import TOKEN_TILE
from cl_ac.kernels.experts import Experts
from cl_ac.kernels.plan import plan


class Tiles(NamedTuple):
    """Block sizes of the two kernels.

    Attributes:
        rows: pairs per program of the up-projection.
        neurons: neurons per program of the up-projection.
        columns: outputs per program of the down-projection, which always takes TOKEN_TILE tokens.
        depth: step along the summed axis.
        warps, stages: Triton launch options.
    """

    rows: int
    neurons: int
    columns: int
    depth: int
    warps: int
    stages: int


def tiles_for(dtype: torch.dtype, gated: bool, interpreted: bool) -> Tiles:
    """Block sizes by dtype: compiled for sm_80 and sm_90 none of them spills (tests/kernels/test_compile.py).

    A GLU keeps two accumulators, so its tile is half as wide.
    """
    if interpreted:
        return Tiles(rows=16, neurons=16, columns=16, depth=16, warps=1, stages=1)
    if dtype == torch.float32:
        return Tiles(rows=64, neurons=32 if gated else 64, columns=64, depth=32, warps=4, stages=3)
    return Tiles(rows=128, neurons=64 if gated else 128, columns=128, depth=64, warps=8, stages=3)


def grouped_ffn(x: Tensor, mask: Tensor, experts: Experts) -> Tensor:
    """FFN over the experts each token asks for.

    Float32 products follow `torch.get_float32_matmul_precision`, as PyTorch's own do.

    Args:
        x: [N, D], contiguous, N >= 1.
        mask: [N, E], bool, contiguous.

    Returns:
        [N, D] in x's dtype.
    """
    tokens, width = x.shape
    count, neurons, _ = experts.up.shape
    interpreted = x.device.type == "cpu"
    tiles = tiles_for(x.dtype, experts.gate is not None, interpreted)
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    layout = plan(mask, tiles.rows)
    # The worst case, every pair executed, needs what the dense FFN's hidden layer needs.
    hidden = torch.empty(tokens * count, neurons, dtype=x.dtype, device=x.device)
    out = torch.empty_like(x)
    # Programs stride over the row tiles, whose number only the device knows.
    programs = 3 if interpreted else 2 * torch.cuda.get_device_properties(x.device).multi_processor_count
    grouped_up[(programs,)](
        x,
        experts.up,
        experts.up_bias,
        experts.gate,
        experts.gate_bias,
        hidden,
        layout.token_of_pair,
        layout.expert_start,
        layout.row_tile_start,
        count,
        width,
        neurons,
        experts.activation,
        tiles.rows,
        tiles.neurons,
        tiles.depth,
        triton.next_power_of_2(count),
        precision,
        interpreted,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    token_major_down[(triton.cdiv(tokens, TOKEN_TILE) * triton.cdiv(width, tiles.columns),)](
        hidden,
        experts.down,
        experts.down_bias,
        out,
        layout.pair_of,
        layout.tile_experts,
        layout.tile_union,
        tokens,
        count,
        width,
        neurons,
        TOKEN_TILE,
        tiles.columns,
        tiles.depth,
        precision,
        interpreted,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """acc + a · b in fp32; the interpreter multiplies bf16 wrongly (Triton 3.6 and 3.9), so there it gets fp32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def grouped_up(
    x,
    up,
    up_bias,
    gate,
    gate_bias,
    hidden,
    token_of_pair,
    expert_start,
    row_tile_start,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EXPERTS: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """hidden [P, M] of every pair. A persistent grid of any size; work item = (row tile, block of neurons)."""
    BLOCKS: tl.constexpr = (NEURONS + COLUMNS - 1) // COLUMNS
    every = tl.arange(0, EXPERTS)
    starts = tl.load(row_tile_start + every, mask=every < COUNT, other=2147483647)
    total = tl.load(row_tile_start + COUNT) * BLOCKS
    work = tl.program_id(0)
    while work < total:
        row_tile = work // BLOCKS
        # experts without pairs share their start with the next one; counting starts finds the last of them
        expert = tl.sum((starts <= row_tile).to(tl.int32), axis=0) - 1
        first = tl.load(expert_start + expert) + (row_tile - tl.load(row_tile_start + expert)) * ROWS
        pairs = first + tl.arange(0, ROWS)
        live = pairs < tl.load(expert_start + expert + 1)
        tokens = tl.load(token_of_pair + pairs, mask=live, other=0).to(tl.int64)
        neurons = (work % BLOCKS) * COLUMNS + tl.arange(0, COLUMNS)
        known = neurons < NEURONS
        rows = expert.to(tl.int64) * NEURONS + neurons
        acc = tl.zeros([ROWS, COLUMNS], tl.float32)
        if gate is not None:
            gate_acc = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, WIDTH, DEPTH):
            depth = start + tl.arange(0, DEPTH)
            inside = depth < WIDTH
            # a dead row reads token 0 and is dropped at the store
            inputs = tl.load(x + tokens[:, None] * WIDTH + depth[None, :], mask=inside[None, :], other=0.0)
            weights = rows[None, :] * WIDTH + depth[:, None]
            within = known[None, :] & inside[:, None]
            acc = _dot(inputs, tl.load(up + weights, mask=within, other=0.0), acc, PRECISION, INTERPRETED)
            if gate is not None:
                gate_weight = tl.load(gate + weights, mask=within, other=0.0)
                gate_acc = _dot(inputs, gate_weight, gate_acc, PRECISION, INTERPRETED)
        if up_bias is not None:
            acc += tl.load(up_bias + rows, mask=known, other=0.0).to(tl.float32)[None, :]
        if gate is not None:
            if gate_bias is not None:
                gate_acc += tl.load(gate_bias + rows, mask=known, other=0.0).to(tl.float32)[None, :]
            acc *= activate(gate_acc, ACTIVATION)
        else:
            acc = activate(acc, ACTIVATION)
        target = hidden + pairs[:, None].to(tl.int64) * NEURONS + neurons[None, :]
        tl.store(target, acc.to(hidden.dtype.element_ty), mask=live[:, None] & known[None, :])
        work += tl.num_programs(0)


@triton.jit
def _down_step(
    acc,
    step,
    hidden,
    down,
    pair_rows,
    tile_list,
    columns,
    valid,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """acc plus the share of DEPTH neurons of one expert of the tile's list."""
    STEPS: tl.constexpr = (NEURONS + DEPTH - 1) // DEPTH
    expert = tl.load(tile_list + step // STEPS)
    neurons = (step % STEPS) * DEPTH + tl.arange(0, DEPTH)
    known = neurons < NEURONS
    pairs = tl.load(pair_rows + expert, mask=valid, other=-1)
    rows = hidden + pairs[:, None].to(tl.int64) * NEURONS + neurons[None, :]
    active = tl.load(rows, mask=(pairs >= 0)[:, None] & known[None, :], other=0.0)
    weights = down + (expert.to(tl.int64) * NEURONS + neurons)[:, None] * WIDTH + columns[None, :]
    weight = tl.load(weights, mask=known[:, None] & (columns < WIDTH)[None, :], other=0.0)
    return _dot(active, weight, acc, PRECISION, INTERPRETED)


@triton.jit
def token_major_down(
    hidden,
    down,
    down_bias,
    out,
    pair_of,
    tile_experts,
    tile_union,
    token_count,
    COUNT: tl.constexpr,
    WIDTH: tl.constexpr,
    NEURONS: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """out [N, D]. Grid (token tiles · column blocks,); programs of one token tile are neighbours and share its rows."""
    BLOCKS: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    STEPS: tl.constexpr = (NEURONS + DEPTH - 1) // DEPTH
    tile = tl.program_id(0) // BLOCKS
    tokens = tile * TILE + tl.arange(0, TILE)
    valid = tokens < token_count
    columns = (tl.program_id(0) % BLOCKS) * COLUMNS + tl.arange(0, COLUMNS)
    pair_rows = pair_of + tokens.to(tl.int64) * COUNT
    tile_list = tile_experts + tile * COUNT
    steps = tl.load(tile_union + tile) * STEPS
    acc = tl.zeros([TILE, COLUMNS], tl.float32)
    if INTERPRETED:
        # The compiler pipelines only `for`, which Triton 3.6's interpreter rejects over a loaded bound (numpy >= 2.4).
        step = 0
        while step < steps:
            acc = _down_step(
                acc, step, hidden, down, pair_rows, tile_list, columns, valid, WIDTH, NEURONS, DEPTH, PRECISION, True
            )
            step += 1
    else:
        for step in tl.range(0, steps):
            acc = _down_step(
                acc, step, hidden, down, pair_rows, tile_list, columns, valid, WIDTH, NEURONS, DEPTH, PRECISION, False
            )
    if down_bias is not None:
        acc += tl.load(down_bias + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)[None, :]
    target = out + tokens[:, None].to(tl.int64) * WIDTH + columns[None, :]
    tl.store(target, acc.to(out.dtype.element_ty), mask=valid[:, None] & (columns < WIDTH)[None, :])
