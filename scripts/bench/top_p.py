"""What it takes to choose neurons by top-p, against the sort of the magnitudes by `torch.sort` alone.

Both take turns in one process; a figure is the median of its times, in CPU time if there is one thread.

    python scripts/bench/top_p.py --threads 1
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from cl_ac.kernels.neuron_masks import top_p_mask
from cl_ac.recording.provenance import cpu_name

# Tokens and neurons.
SHAPES = ((1, 3072), (256, 3072), (1576, 768), (1, 14336))


def medians(works: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of each of the works, which take turns; the first turn warms up."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, times in zip(works, taken, strict=True):
            began = clock()
            work()
            if turn:
                times.append(clock() - began)
    return [statistics.median(times) for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--p", type=float, default=0.9, help="share of the mass")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    print(f"{cpu_name()}, {args.threads} threads, torch {torch.__version__}, median of {args.repeats}\n")
    print("| dtype | tokens | neurons | top-p ms | torch.sort ms | ratio |\n|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, neurons in SHAPES:
            values = torch.randn(tokens, neurons).to(dtype)
            magnitudes = values.abs()
            works = (lambda given=values: top_p_mask(given, args.p), lambda given=magnitudes: given.sort(-1))
            chosen, ordered = (seconds * 1e3 for seconds in medians(works, args.repeats, clock))
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {tokens} | {neurons} | {chosen:.3f} | {ordered:.3f} | {chosen / ordered:.2f} |")


if __name__ == "__main__":
    main()
