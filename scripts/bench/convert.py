"""What dynamic-k experts save: a small ViT with ACs on scikit-learn's digits, made sparse and converted.

Trains the network, fine-tunes it with the sparsity loss, converts it to D2DMoE and to MoEfication, and compares both
with the dense network: accuracy against multiply-accumulates of the feed-forward networks (FFNs) and of the whole.

    python scripts/bench/convert.py
    python scripts/bench/convert.py --results results/convert_digits-cpu.json
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cl_ac.checkpoint import write_atomically
from cl_ac.cli import main
from cl_ac.efficiency.convert import Conversion
from cl_ac.efficiency.finetune import FineTuning
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.progress import phases
from cl_ac.report.conversion import Converted, Settings, convert_run
from cl_ac.report.conversion_results import rows, table, write
from cl_ac.report.operating_points import Point
from cl_ac.rundir import RunDirectory, provenance


def train(folder: Path, epochs: int, depth: int) -> RunDirectory:
    """One task with all ten digits."""
    settings = {
        "approach": "FineTuning",
        "benchmark": "Digits",
        "benchmark.tasks": 1,
        "backbone": "ViT",
        "backbone.depth": depth,
        "exits": "ln",
        "training.epochs": epochs,
        "training.batch_size": 32,
        "training.optimizer": "adamw",
        "training.lr": 0.001,
        "training.schedule": "cosine",
        "training.warmup": 5,
        "training.clip": 1,
        "device": "cpu",
        "out": folder,
        "name": "run",
    }
    if main(["run", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]):
        raise SystemExit(2)
    return RunDirectory(folder / "run")


def cheapest(original: Point, points: Sequence[Point], lost: float) -> float | None:
    """The least FFN cost at which the final exit loses at most `lost` accuracy; None if there is none."""
    wanted = original.whole[1] - lost - 1e-9
    return min((point.ffn_cost for point in points if point.whole[1] >= wanted), default=None)


def summary(converted: Converted) -> dict:
    """What the results file keeps."""
    return {
        "ffn_cost_within_one_point": {
            "D2DMoE": cheapest(converted.original, converted.points, 0.01),
            "MoEfication": cheapest(converted.original, converted.baseline, 0.01),
        },
        "points": {
            name: {"ffn_cost": point.ffn_cost, "cost": point.whole[0], "accuracy": point.whole[1]}
            for name, point in rows(converted)
        },
        "zero_neurons": {name: counts.zero for name, counts in converted.sparsity.items()},
    }


def main_bench() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=100, help="of the dense network")
    parser.add_argument("--finetune", type=int, default=40, help="epochs with the sparsity loss")
    parser.add_argument("--weight", type=float, default=0.001, help="of the square Hoyer loss")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the ViT")
    parser.add_argument("--size", type=int, default=8, help="neurons of an expert")
    parser.add_argument("--router", type=int, default=16, help="width of the router")
    parser.add_argument("--folder", type=Path, help="keep the run here; one that is there is not trained again")
    parser.add_argument("--results", type=Path, help="write a summary to this JSON file")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    directory = RunDirectory(folder / "run")
    if not directory.checkpoint_path.exists():
        directory = train(folder, args.epochs, args.depth)
    taus = (0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
    settings = Settings(taus=taus)
    experts = Conversion(size=args.size, router_width=args.router)
    tuning, sparsify = FineTuning(epochs=args.finetune), Sparsify("hoyer", args.weight)
    with phases(Console(stderr=True)) as progress:
        converted = convert_run(directory, settings, experts, tuning, sparsify, "cpu", progress)
    Console(width=160).print(table(converted))
    for path in write(converted, directory):
        print(path)
    found = summary(converted)
    for name, cost in found["ffn_cost_within_one_point"].items():
        print(
            f"{name}: "
            + ("never within one point" if cost is None else f"{1 - cost:.0%} of FFN cost saved within one point")
        )
    if args.results:
        given = {name: value for name, value in vars(args).items() if name not in ("folder", "results")}
        origin = {name: value for name, value in provenance().items() if name != "command"}
        content = json.dumps({"settings": given, **found, "provenance": origin}, indent=1)
        write_atomically(args.results, lambda path: path.write_text(content))


if __name__ == "__main__":
    main_bench()
