"""Which token runs on which expert, as index lists on the device: a stable counting sort of the mask's pairs.

Three launches, no sort, no atomics, no host synchronisation, so it can be captured in a CUDA graph, and equal masks
give equal lists.

Legend: N tokens, E experts, P executed (token, expert) pairs, T = ceil(N / TOKEN_TILE) token tiles.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cl_ac.kernels.cost import TOKEN_TILE

EXPERT_BLOCK = 32
SCAN_TILES = 128


class Plan(NamedTuple):
    """Pairs are numbered by expert, then by token.

    Attributes:
        token_of_pair: [N·E] int32, token of each pair; the first P entries are written.
        pair_of: [N, E] int32, number of each pair, -1 where the mask is off.
        expert_start: [E + 1] int32, first pair of each expert; the last entry is P.
        row_tile_start: [E + 1] int32, first row tile of each expert when its pairs are cut into tiles of `row_tile`
            rows; the last entry is the number of row tiles.
        tile_experts: [T, E] int32, experts that at least one token of the tile uses, ascending; the first
            `tile_union` entries of each row are written.
        tile_union: [T] int32, how many experts that is.
    """

    token_of_pair: Tensor
    pair_of: Tensor
    expert_start: Tensor
    row_tile_start: Tensor
    tile_experts: Tensor
    tile_union: Tensor


def plan(mask: Tensor, row_tile: int) -> Plan:
    """Builds the plan of a mask.

    Args:
        mask: [N, E], bool, contiguous, N >= 1.
        row_tile: rows per tile of the up-projection.

    Raises:
        ValueError: if the pairs cannot be numbered in 31 bits.
    """
    tokens, experts = mask.shape
    if tokens * experts >= 2**31:
        raise ValueError(f"{tokens} tokens x {experts} experts exceed 2^31 pairs; split the batch")
    tiles = triton.cdiv(tokens, TOKEN_TILE)

    def indices(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=mask.device)

    result = Plan(
        indices(tokens * experts),
        indices(tokens, experts),
        indices(experts + 1),
        indices(experts + 1),
        indices(tiles, experts),
        indices(tiles),
    )
    counts, offsets = indices(tiles, experts), indices(tiles, experts)
    flags = mask.view(torch.uint8)
    grid = (tiles, triton.cdiv(experts, EXPERT_BLOCK))
    count_pairs[grid](flags, counts, tokens, experts, TOKEN_TILE, EXPERT_BLOCK)
    scan_counts[(1,)](
        counts,
        offsets,
        result.expert_start,
        result.row_tile_start,
        tiles,
        experts,
        row_tile,
        min(SCAN_TILES, triton.next_power_of_2(tiles)),
        EXPERT_BLOCK,
        num_warps=8,
    )
    scatter_pairs[grid](
        flags,
        counts,
        offsets,
        *result,
        tokens,
        experts,
        TOKEN_TILE,
        EXPERT_BLOCK,
        triton.next_power_of_2(experts),
    )
    return result


def gate(predictions: Tensor, threshold: float) -> Tensor:
    """`gate.max_rule` for fp32 predictions [..., E] in one launch."""
    experts = predictions.shape[-1]
    mask = torch.empty(predictions.shape, dtype=torch.bool, device=predictions.device)
    tokens = predictions.numel() // experts
    if tokens:
        padded = triton.next_power_of_2(experts)
        rows = max(1, 4096 // padded)
        keep_near_max[(triton.cdiv(tokens, rows),)](
            predictions, mask.view(torch.uint8), threshold, tokens, experts, rows, padded
        )
    return mask


@triton.jit
def keep_near_max(predictions, mask, threshold, tokens, experts, ROWS: tl.constexpr, EXPERTS: tl.constexpr):
    """mask [N, E]. Grid (token tiles,)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, EXPERTS)
    cells = rows[:, None].to(tl.int64) * experts + columns[None, :]
    valid = (rows < tokens)[:, None] & (columns < experts)[None, :]
    value = tl.load(predictions + cells, mask=valid, other=float("-inf"))
    largest = tl.max(value, axis=1)
    broken = (tl.max((value != value).to(tl.int32), axis=1) > 0) | (tl.abs(largest) == float("inf"))
    keep = (value >= threshold * largest[:, None]) | (value == largest[:, None]) | broken[:, None]
    tl.store(mask + cells, keep.to(tl.uint8), mask=valid)


@triton.jit
def _mask_tile(mask, tokens, experts, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """This program's token indices [TILE], expert indices [BLOCK], validity and mask as int32 [TILE, BLOCK]."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = (rows < tokens)[:, None] & (columns < experts)[None, :]
    on = tl.load(mask + rows[:, None].to(tl.int64) * experts + columns[None, :], mask=valid, other=0).to(tl.int32)
    return rows, columns, valid, on


@triton.jit
def count_pairs(mask, counts, tokens, experts, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """counts [T, E]: tokens of each tile that use each expert. Grid (T, expert blocks)."""
    _, columns, _, on = _mask_tile(mask, tokens, experts, TILE, BLOCK)
    tl.store(counts + tl.program_id(0) * experts + columns, tl.sum(on, axis=0), mask=columns < experts)


@triton.jit
def scan_counts(
    counts,
    offsets,
    expert_start,
    row_tile_start,
    tiles,
    experts,
    row_tile,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """offsets [T, E]: pairs of an expert before each tile; and the running totals over experts. One program."""
    pairs = 0
    row_tiles = 0
    first_expert = 0
    while first_expert < experts:
        columns = first_expert + tl.arange(0, BLOCK)
        total = tl.zeros([BLOCK], tl.int32)
        first_tile = 0
        while first_tile < tiles:
            rows = first_tile + tl.arange(0, TILES)
            valid = (rows < tiles)[:, None] & (columns < experts)[None, :]
            index = rows[:, None] * experts + columns[None, :]
            count = tl.load(counts + index, mask=valid, other=0)
            tl.store(offsets + index, total[None, :] + tl.cumsum(count, axis=0) - count, mask=valid)
            total += tl.sum(count, axis=0)
            first_tile += TILES
        expert_tiles = (total + row_tile - 1) // row_tile
        tl.store(expert_start + columns, pairs + tl.cumsum(total, axis=0) - total, mask=columns < experts)
        tl.store(
            row_tile_start + columns,
            row_tiles + tl.cumsum(expert_tiles, axis=0) - expert_tiles,
            mask=columns < experts,
        )
        pairs += tl.sum(total, axis=0)
        row_tiles += tl.sum(expert_tiles, axis=0)
        first_expert += BLOCK
    tl.store(expert_start + experts, pairs)
    tl.store(row_tile_start + experts, row_tiles)


@triton.jit
def scatter_pairs(
    mask,
    counts,
    offsets,
    token_of_pair,
    pair_of,
    expert_start,
    row_tile_start,
    tile_experts,
    tile_union,
    tokens,
    experts,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """Writes both directions of the pair numbering and each tile's list of experts. Grid (T, expert blocks)."""
    tile = tl.program_id(0)
    rows, columns, valid, on = _mask_tile(mask, tokens, experts, TILE, BLOCK)
    known = columns < experts
    start = tl.load(expert_start + columns, mask=known, other=0)
    start += tl.load(offsets + tile * experts + columns, mask=known, other=0)
    pair = start[None, :] + tl.cumsum(on, axis=0) - 1
    tl.store(token_of_pair + pair, tl.broadcast_to(rows[:, None], (TILE, BLOCK)), mask=valid & (on > 0))
    tl.store(pair_of + rows[:, None].to(tl.int64) * experts + columns[None, :], tl.where(on > 0, pair, -1), mask=valid)
    if tl.program_id(1) == 0:
        every = tl.arange(0, EXPERTS)
        used = (tl.load(counts + tile * experts + every, mask=every < experts, other=0) > 0).to(tl.int32)
        place = tl.cumsum(used, axis=0) - 1
        tl.store(tile_experts + tile * experts + place, every, mask=used > 0)
        tl.store(tile_union + tile, tl.sum(used, axis=0))
