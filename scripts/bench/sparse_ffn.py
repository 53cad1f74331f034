"""Times the sparse FFN against the dense two-Linear FFN in the same run and prints a table.

    python scripts/bench/sparse_ffn.py                   # CPU, fp32
    python scripts/bench/sparse_ffn.py --threads 1 --clock cpu --results results/sparse_ffn-cpu.json
    python scripts/bench/sparse_ffn.py --device cuda     # GPU, bf16, eager and CUDA graph

Every figure is a median over interleaved repeats, each on the next of several layers, inputs and masks, so that
neither side is served from a cache that a whole model would not fit.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.kernels.cost import Usage, machine_for, measured_usage
from cl_ac.kernels.experts import Experts
from cl_ac.kernels.sparse_ffn import chosen_backend, expected_cost, sparse_ffn
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import cpu_name, provenance


class Shape(NamedTuple):
    """An FFN: model width, hidden width, experts, and whether it is a GLU."""

    width: int
    hidden: int
    experts: int
    gated: bool


VIT = Shape(768, 3072, 24, False)
CPU_CASES = [
    # In experts of 24 neurons, as conversion cuts them by default; 14,336 neurons need 598 of those.
    *((Shape(768, 3072, 128, False), tokens) for tokens in (1, 4, 16, 64, 256, 1576)),
    (Shape(4096, 14352, 598, False), 1),
    # In experts of 128.
    *((VIT, tokens) for tokens in (1, 4, 16, 64, 256, 1576)),
    *((Shape(4096, 14336, 112, False), tokens) for tokens in (1, 4)),
]
GPU_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 50432)
GPU_CASES = [(shape, tokens) for shape in (VIT, Shape(4096, 14336, 112, True)) for tokens in GPU_TOKENS]
SPARSITIES = (0.0, 0.5, 0.75, 0.9)
# Copies of a layer are made until they outgrow any cache in use (H200 L2: 60 MB; EPYC L3 slice: 32 MB).
ROTATED_BYTES = 256e6
MAX_SETS = 8


class Layer(NamedTuple):
    """One layer's inputs [N, D], mask [N, E], experts, and the same weights as the dense FFN stores them."""

    x: Tensor
    mask: Tensor
    experts: Experts
    first: Tensor
    second: Tensor


class Timing(NamedTuple):
    """One case: median milliseconds of each side, and what the cost model says.

    Attributes:
        mode: eager or graph, and whether neighbouring tokens share experts.
        active: executed share of (token, expert) pairs.
        sparse_ms: of this device's sparse backend; `auto_ms` decides by itself between that and `dense`.
        chosen: what `auto` ran.
        predicted: ratio of dense to sparse by the cost model.
        dense_bandwidth: GB/s at which dense reads all weights.
        sparse_bandwidth: GB/s at which sparse reads the weights in use.
        roofline: share of the fastest possible time that sparse reaches.
    """

    ffn: str
    tokens: int
    mode: str
    sparsity: float
    active: float
    dense_ms: float
    sparse_ms: float
    auto_ms: float
    chosen: str
    predicted: float
    dense_bandwidth: float
    sparse_bandwidth: float
    roofline: float

    HEADER = (
        "| FFN | tokens | mode | sparsity | active | dense ms | sparse ms | ratio | auto | predicted | dense GB/s "
        "| sparse GB/s | roofline |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )

    def row(self) -> str:
        """The case as a row of a Markdown table."""
        return (
            f"| {self.ffn} | {self.tokens} | {self.mode} | {self.sparsity:.0%} | {self.active:.3f} "
            f"| {self.dense_ms:.3f} | {self.sparse_ms:.3f} | {self.dense_ms / self.sparse_ms:.2f} "
            f"| {self.dense_ms / self.auto_ms:.2f} ({self.chosen}) | {self.predicted:.2f} "
            f"| {self.dense_bandwidth:.1f} | {self.sparse_bandwidth:.1f} | {self.roofline:.0%} |"
        )


def random_mask(tokens: int, experts: int, sparsity: float, clustered: bool) -> Tensor:
    """Exactly k experts per token; clustered, 64 neighbours choose from the same 1.3 k of them: [N, E]."""
    active = max(1, round(experts * (1 - sparsity)))
    score = torch.rand(tokens, experts)
    if clustered:
        groups = torch.rand(math.ceil(tokens / 64), experts).argsort(1).argsort(1)
        score += (groups >= math.ceil(1.3 * active)).repeat_interleave(64, 0)[:tokens]
    return score.argsort(1).argsort(1) < active


def make_layer(shape: Shape, tokens: int, mask: Tensor, device: str, dtype: torch.dtype) -> Layer:
    def weight(*size: int) -> Tensor:
        return (torch.randn(size, device=device) / size[-1] ** 0.5).to(dtype)

    size = (shape.experts, shape.hidden // shape.experts, shape.width)
    gate = weight(*size) if shape.gated else None
    activation = "silu" if shape.gated else "relu"
    biases = (None, None) if shape.gated else (weight(*size[:2]), weight(shape.width))
    experts = Experts(weight(*size), weight(*size), activation, *biases, gate)
    first = experts.up if gate is None else torch.cat([gate, experts.up])
    second = experts.down.flatten(0, 1).t().contiguous()
    return Layer(weight(tokens, shape.width), mask.to(device), experts, first.flatten(0, 1).clone(), second)


def dense_ffn(layer: Layer) -> Tensor:
    """The FFN as models run it: two Linears (gate and up in one), no mask."""
    experts = layer.experts
    hidden = F.linear(layer.x, layer.first, None if experts.up_bias is None else experts.up_bias.flatten())
    if experts.gate is None:
        hidden = F.relu(hidden)
    else:
        gate, up = hidden.chunk(2, -1)
        hidden = F.silu(gate) * up
    return F.linear(hidden, layer.second, experts.down_bias)


def wall_seconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cpu_seconds(call: Callable[[], Tensor]) -> float:
    """Processor time instead of wall clock: what a call costs on a machine that others use too."""
    start = time.process_time()
    call()
    return time.process_time() - start


def gpu_seconds(call: Callable[[], Tensor]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


CLOCKS = {"wall": wall_seconds, "cpu": cpu_seconds, "gpu": gpu_seconds}


def captured(call: Callable[[], Tensor]) -> Callable[[], None]:
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def median_seconds(sides: list[list[Callable]], seconds: Callable, repeats: int) -> list[float]:
    """Median time of each side, whose calls (one per layer) take turns; the first round warms up.

    Sides start on different layers: one must not find in a cache what another has just read.
    """
    samples: list[list[float]] = [[] for _ in sides]
    layers = len(sides[0])
    for turn in range(repeats + layers):
        for place, (taken, calls) in enumerate(zip(samples, sides, strict=True)):
            elapsed = seconds(calls[(turn + place * layers // len(sides)) % layers])
            if turn >= layers:
                taken.append(elapsed)
    return [statistics.median(taken) for taken in samples]


def ideal_seconds(layer: Layer, usage: Usage) -> float:
    """Roofline of the sparse FFN: executed products at the dense rate or weights in use at memory speed."""
    machine = machine_for(layer.x.device.type, layer.x.dtype)
    weights = layer.first.numel() + layer.second.numel()
    arithmetic = 2 * len(layer.x) * weights * usage.pairs / machine.flops
    return max(arithmetic, weights * layer.x.element_size() * usage.union / machine.bandwidth)


def timings(shape: Shape, tokens: int, args: argparse.Namespace, dtype: torch.dtype) -> Iterator[Timing]:
    weights = shape.width * shape.hidden * (3 if shape.gated else 2) * dtype.itemsize
    sets = min(MAX_SETS, max(3, math.ceil(ROTATED_BYTES / weights)))
    clusterings = (False, True) if args.device == "cuda" and tokens >= 64 else (False,)
    for clustered in clusterings:
        for sparsity in SPARSITIES:
            masks = [random_mask(tokens, shape.experts, sparsity, clustered) for _ in range(sets)]
            layers = [make_layer(shape, tokens, mask, args.device, dtype) for mask in masks]
            yield from timed(shape, tokens, sparsity, clustered, layers, args)


def timed(
    shape: Shape, tokens: int, sparsity: float, clustered: bool, layers: list[Layer], args: argparse.Namespace
) -> Iterator[Timing]:
    on_gpu = args.device == "cuda"
    usage = measured_usage(layers[0].mask)
    dense = torch.compile(dense_ffn) if on_gpu else dense_ffn
    backend = "triton" if on_gpu else "torch"
    chosen = chosen_backend(layers[0].x, layers[0].mask, layers[0].experts, usage)
    given = usage if on_gpu else None
    weights = (layers[0].first.numel() + layers[0].second.numel()) * layers[0].x.element_size()
    sides = [
        [lambda layer=layer: dense(layer) for layer in layers],
        [lambda layer=layer: sparse_ffn(layer.x, layer.mask, layer.experts, backend) for layer in layers],
        [lambda layer=layer: sparse_ffn(layer.x, layer.mask, layer.experts, "auto", given) for layer in layers],
    ]
    cost = expected_cost(layers[0].x, layers[0].experts, usage)
    for graph in (False, True) if on_gpu else (False,):
        calls = [[captured(call) for call in side] for side in sides] if graph else sides
        medians = median_seconds(calls, CLOCKS["gpu" if on_gpu else args.clock], args.repeats)
        name = f"{shape.width}/{shape.hidden}{' GLU' if shape.gated else ''} E={shape.experts}"
        mode = ("graph" if graph else "eager") + (" clustered" if clustered else "")
        dense_ms, sparse_ms, auto_ms = (median * 1e3 for median in medians)
        yield Timing(
            name,
            tokens,
            mode,
            sparsity,
            usage.pairs,
            dense_ms,
            sparse_ms,
            auto_ms,
            chosen,
            cost.dense / cost.sparse,
            weights / dense_ms / 1e6,
            weights * usage.union / sparse_ms / 1e6,
            ideal_seconds(layers[0], usage) * 1e3 / sparse_ms,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="default: float32, on a GPU bfloat16"
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time, for a busy machine"
    )
    parser.add_argument("--tokens", type=int, nargs="+", help="only cases with these numbers of tokens")
    parser.add_argument("--results", type=Path, help="write the table and where it comes from to this JSON file")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype or ("bfloat16" if args.device == "cuda" else "float32"))
    hardware = torch.cuda.get_device_name() if args.device == "cuda" else cpu_name()
    clock = "GPU events" if args.device == "cuda" else f"{args.threads} threads, {args.clock} time"
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"{hardware}, {clock}, torch {torch.__version__}, {dtype}, median of {args.repeats}\n")
    print(Timing.HEADER)
    found = []
    with torch.inference_mode():
        for shape, tokens in GPU_CASES if args.device == "cuda" else CPU_CASES:
            if args.tokens is None or tokens in args.tokens:
                for timing in timings(shape, tokens, args, dtype):
                    found.append(timing)
                    print(timing.row(), flush=True)
    if args.results:
        settings = {"hardware": hardware, "clock": clock, "dtype": str(dtype), "repeats": args.repeats}
        origin = {name: value for name, value in provenance().items() if name != "command"}
        table = [
            {name: round(value, 4) if isinstance(value, float) else value for name, value in timing._asdict().items()}
            for timing in found
        ]
        content = json.dumps({"settings": settings, "table": table, "provenance": origin}, indent=1)
        write_atomically(args.results, lambda path: path.write_text(content))


if __name__ == "__main__":
    main()
