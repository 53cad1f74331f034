"""What dynamic-k experts save: small ViTs with ACs on scikit-learn's digits, made sparse and converted.

For each seed: trains the network, fine-tunes it with the sparsity loss, converts it to D2DMoE and to MoEfication, and
compares both with the dense network: accuracy against multiply-accumulates of the feed-forward networks (FFNs) and of
the whole. D2DMoE is swept twice, with one threshold for all layers and, at the same cost, with one for each.

    python scripts/bench/convert.py
    python scripts/bench/convert.py --results results/convert_digits-cpu.json
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from cl_ac.cli.main import main
from cl_ac.efficiency.convert import Conversion
from cl_ac.efficiency.finetune import SparseTuning
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.exits.cost import exit_costs
from cl_ac.recording.files import write_atomically
from cl_ac.recording.progress import phases
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.report.conversion_results import decision, rows, table, write
from cl_ac.serving.conversion import Converted, Progress, Settings, convert_run
from cl_ac.serving.operating_points import Point, evaluated, swept

TAUS = (0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)


def train(folder: Path, epochs: int, depth: int, seed: int) -> RunDirectory:
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
        "seed": seed,
        "out": folder,
        "name": f"seed_{seed}",
    }
    if main(["run", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]):
        raise SystemExit(2)
    return RunDirectory(folder / f"seed_{seed}")


def shared(converted: Converted, progress: Progress) -> list[Point]:
    """The converted network with one threshold for all layers."""
    run = converted.run
    trainer = run.trainer
    gates = {gate: gate for gate in (Gate("max", tau) for tau in TAUS)}
    at = partial(evaluated, run, trainer, exit_costs(run.network))
    return swept(converted.dynamic, gates, at, partial(progress, "sweeping a shared threshold"))


def cheapest(original: Point, points: Sequence[Point], lost: float) -> float | None:
    """The least FFN cost at which the final exit loses at most `lost` accuracy; None if there is none."""
    wanted = original.whole[1] - lost - 1e-9
    return min((point.ffn_cost for point in points if point.whole[1] >= wanted), default=None)


def summary(converted: Converted, one_threshold: Sequence[Point]) -> dict:
    """What the results file keeps of a seed."""
    families = {
        "D2DMoE": converted.points,
        "D2DMoE, shared tau": one_threshold,
        "MoEfication": converted.baseline,
    }
    named = rows(converted) + [(f"D2DMoE shared tau {point.gate.threshold:.3g}", point) for point in one_threshold]
    return {
        "ffn_cost_within_one_point": {
            name: cheapest(converted.original, points, 0.01) for name, points in families.items()
        },
        "points": {
            name: {"ffn_cost": point.ffn_cost, "cost": point.whole[0], "accuracy": point.whole[1]}
            for name, point in named
        },
        "chosen": None if converted.choice is None else asdict(converted.choice),
        "decision": decision(converted),
        "zero_neurons": {name: counts.zero for name, counts in converted.sparsity.items()},
    }


def comparison(found: Sequence[dict]) -> Table:
    """FFN cost and accuracy of the final exit with one threshold and with one for each layer, means over seeds, %."""
    made = Table(title=f"mean of {len(found)} seeds, %")
    for name in ("tau", "FFN cost, shared", "accuracy", "FFN cost, by layer", "accuracy"):
        made.add_column(name, justify="right")
    for tau in TAUS:
        names = (f"D2DMoE shared tau {tau:.3g}", f"D2DMoE tau {tau:.3g}")
        values = [
            mean(each["points"][name][key] for each in found) for name in names for key in ("ffn_cost", "accuracy")
        ]
        made.add_row(f"{tau:g}", *map(percent, values))
    return made


def main_bench() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100, help="of the dense network")
    parser.add_argument("--finetune", type=int, default=40, help="epochs with the sparsity loss")
    parser.add_argument("--weight", type=float, default=0.001, help="of the square Hoyer loss")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the ViT")
    parser.add_argument("--size", type=int, default=8, help="neurons of an expert")
    parser.add_argument("--router", type=int, default=16, help="width of the router")
    parser.add_argument("--tolerance", type=float, default=0.03, help="accuracy that the chosen model may lose")
    parser.add_argument("--folder", type=Path, help="keep the runs here; those that are there are not trained again")
    parser.add_argument("--results", type=Path, help="write a summary to this JSON file")
    args = parser.parse_args()
    folder, origin = args.folder or Path(tempfile.mkdtemp()), provenance()
    settings = Settings(taus=TAUS, allocation="layer", tolerance=args.tolerance)
    experts = Conversion(size=args.size, router_width=args.router)
    tuning, sparsify = SparseTuning(epochs=args.finetune), Sparsify("hoyer", args.weight)
    found, console = [], Console(width=160)
    for seed in args.seeds:
        directory = RunDirectory(folder / f"seed_{seed}")
        if not directory.checkpoint_path.exists():
            directory = train(folder, args.epochs, args.depth, seed)
        with phases(Console(stderr=True)) as progress:
            converted = convert_run(directory, settings, experts, tuning, sparsify, "cpu", progress)
            one_threshold = shared(converted, progress)
        console.print(table(converted))
        for path in write(converted, directory):
            print(path)
        found.append(summary(converted, one_threshold))
    console.print(comparison(found))
    for name in found[0]["ffn_cost_within_one_point"]:
        costs = [each["ffn_cost_within_one_point"][name] for each in found]
        within = ", ".join("never" if cost is None else f"{percent(cost)} %" for cost in costs)
        print(f"least FFN cost within one point of the dense network on test samples, {name}: {within}")
    if args.results:
        given = {name: value for name, value in vars(args).items() if name not in ("folder", "results")}
        del origin["command"]
        seeds = dict(zip(args.seeds, found, strict=True))
        content = json.dumps({"settings": given, "seeds": seeds, "provenance": origin}, indent=1)
        write_atomically(args.results, lambda path: path.write_text(content))


if __name__ == "__main__":
    main_bench()
