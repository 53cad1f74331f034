"""What a sparse FFN is predicted to cost, and the choice that follows: sparse only where it pays.

A roofline per phase (the slower of arithmetic and memory; on a CPU their sum) plus a fixed price per launch. Ratios
matter, not seconds: a faster machine of the same balance gives the same choice.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cl_ac.kernels.experts import ONEDNN_MACS, ONEDNN_ROWS, Experts

TOKEN_TILE = 64
# Sparse has to be predicted this much faster: the model ignores cache and host effects, which favour dense.
MARGIN = 0.9


class Workload(NamedTuple):
    """Sizes of one FFN call.

    Attributes:
        tokens: N.
        width: D.
        experts: E.
        neurons: per expert, M.
        matrices: 2 for plain experts, 3 for GLU.
        itemsize: bytes per element.
    """

    tokens: int
    width: int
    experts: int
    neurons: int
    matrices: int
    itemsize: int


class Usage(NamedTuple):
    """How much of the experts a batch's masks use, as shares in [0, 1].

    Attributes:
        pairs: executed (token, expert) pairs of all pairs.
        tiles: mean share of experts that at least one of TOKEN_TILE neighbouring tokens runs.
        union: experts that any token runs.
    """

    pairs: float
    tiles: float
    union: float


class Machine(NamedTuple):
    """Rates of a device.

    Attributes:
        flops: of a large dense matrix product, FLOP/s.
        grouped: share of that rate which grouped products reach.
        bandwidth: of memory, bytes/s.
        launch: seconds per operation.
        packing_cache: for a CPU, bytes of its last cache: a product of several rows first copies its matrix into a
            packed form, which is one more pass over the matrix if the copy fits here, else two; large products, which
            go to oneDNN, take half a pass more (`experts.product`). None: no copies.
    """

    flops: float
    grouped: float
    bandwidth: float
    launch: float
    packing_cache: float | None = None

    def product_seconds(self, flops: float, weights: float, matrix: float, rows: float) -> float:
        """Time of matrix products.

        Args:
            flops: in all, at the large product's rate.
            weights: bytes in all.
            matrix: bytes of one matrix.
            rows: mean rows that meet a matrix, at least 1.
        """
        arithmetic, memory = flops / self.flops, weights / self.bandwidth
        if self.packing_cache is None:
            return max(arithmetic, memory)
        if rows >= ONEDNN_ROWS and rows * matrix / 4 >= ONEDNN_MACS:
            copied = 0.5
        else:
            copied = min(1.0, rows - 1) * (1 if matrix <= self.packing_cache else 2)
        return arithmetic + memory * (1 + copied)


class CallCost(NamedTuple):
    """Predicted seconds of one call."""

    dense: float
    sparse: float

    @property
    def pays(self) -> bool:
        """Whether sparse is predicted to win by more than MARGIN."""
        return self.sparse < MARGIN * self.dense


# AMD EPYC, 2 threads, torch 2.15, November 2026 (fp32): dense FFN at D=768, F=3072, N=1576 and one token at
# D=4096, F=14336; an operation on a few rows; passes from 4, 16 and 64 tokens at both sizes.
CPU = Machine(flops=120e9, grouped=1.0, bandwidth=17e9, launch=6e-6, packing_cache=32e6)
# H200: 8192^3 bf16 product 790 TFLOP/s, of which an FFN reaches 85 %; copy 4.3 TB/s; 2 us per dependent launch in a
# CUDA graph. 337 TFLOP/s is what Liger's fused Triton MoE reaches on an H100 (32,768 tokens, committed CSV): half.
HOPPER_16_BIT = Machine(flops=670e12, grouped=0.5, bandwidth=4.3e12, launch=2e-6)
# 67 TFLOP/s fp32 outside the tensor cores (H200 datasheet).
HOPPER_32_BIT = Machine(flops=60e12, grouped=0.5, bandwidth=4.3e12, launch=2e-6)


def machine_for(device_type: str, dtype: torch.dtype) -> Machine:
    """Rates by torch device type and dtype; every GPU is taken for a Hopper, whose balance is the hardest to beat."""
    if device_type == "cpu":
        return CPU
    return HOPPER_32_BIT if dtype == torch.float32 else HOPPER_16_BIT


def workload_of(x: Tensor, experts: Experts) -> Workload:
    """Sizes of a call with x [N, D]."""
    count, neurons, width = experts.up.shape
    return Workload(x.shape[0], width, count, neurons, 2 if experts.gate is None else 3, x.element_size())


def measured_usage(mask: Tensor) -> Usage:
    """Usage of a mask [N, E], read back from its device: on a GPU for calibration batches only."""
    tokens, experts = mask.shape
    if not tokens:
        return Usage(0.0, 0.0, 0.0)
    if tokens == 1:
        share = sum(mask.tolist()[0]) / experts
        return Usage(share, share, share)
    counts = mask.sum(0).tolist()
    union = sum(count > 0 for count in counts) / experts
    tiles = union
    if tokens > TOKEN_TILE:
        tiles = torch.stack([tile.any(0) for tile in mask.split(TOKEN_TILE)]).float().mean().item()
    return Usage(sum(counts) / mask.numel(), tiles, union)


def independent_usage(share: float, tokens: int) -> Usage:
    """Expected usage when N tokens pick each expert with probability `share`, independently: the worst case."""
    return Usage(share, 1 - (1 - share) ** min(tokens, TOKEN_TILE), 1 - (1 - share) ** tokens)


def predicted_cost(work: Workload, usage: Usage, machine: Machine, single_launch: bool, token_major: bool) -> CallCost:
    """Predicted seconds of the dense and the sparse FFN.

    Args:
        single_launch: the sparse side is the decode kernel.
        token_major: the sparse side is the plan and the two grouped kernels, which run each tile of tokens over the
            union of its experts; otherwise it goes expert by expert with gathers and scattered additions.
    """
    hidden = work.experts * work.neurons
    row = work.width * work.itemsize
    matrix_flops = 2 * work.tokens * work.width * hidden
    weights = work.matrices * hidden * row
    ends = 2 * work.tokens * row
    masking = 2 * work.tokens * hidden * work.itemsize
    dense = machine.product_seconds(
        work.matrices * matrix_flops, weights + ends + masking, hidden * row, max(1, work.tokens)
    )
    dense += work.matrices * machine.launch

    pairs = work.tokens * work.experts * usage.pairs
    up_share, down_share = (work.matrices - 1) * usage.pairs, usage.tiles if token_major else usage.pairs
    flops = matrix_flops * (up_share + down_share) / machine.grouped
    rows = max(1.0, pairs / max(1.0, work.experts * usage.union))
    # neighbouring experts that serve the same tokens are one product
    matrix = (hidden if usage.pairs == 1 else work.neurons) * row
    streamed = weights * usage.union
    # launches on a GPU include two for the router and the gate, without which there would be no mask
    if single_launch:
        return CallCost(dense, machine.product_seconds(flops, streamed, matrix, rows) + 4 * machine.launch)
    if token_major:
        streamed += pairs * (row + 2 * work.neurons * work.itemsize)
        return CallCost(dense, machine.product_seconds(flops, streamed, matrix, rows) + 7 * machine.launch)
    products = machine.product_seconds(flops, streamed, matrix, rows)
    if work.tokens == 1:
        # Neighbouring experts in use are one product: so many runs of them if each is chosen independently. A run takes
        # four operations' time (AMD EPYC, 1 thread, 27 November 2026: 19 to 27 us beside the weights with experts of
        # 24 neurons at D=768 and D=384, 50 to 90 % skipped; an Intel Xeon: 17 to 21 us).
        runs = work.experts * usage.pairs * (1 - usage.pairs) + usage.pairs
        return CallCost(dense, products + (4 + 4 * runs) * machine.launch)
    # per pair: gather (read, write), product (write, read), output (read, write)
    traffic = 6 * pairs * row / machine.bandwidth
    # operations per call and per expert in use (kernels/torch_ffn.py)
    launches = (8 + 5 * work.experts * usage.union) * machine.launch
    return CallCost(dense, products + traffic + launches)
