"""What sparse networks learn, by what their weights start from.

Two studies on scikit-learn's digits. `depth`: plain tanh networks of 100 and 300 layers of 64 units, an eighth of whose
weights is kept, learn all ten classes at once. `continual`: LwF on five tasks of two classes with a tenth of the
weights of the small convolutional network, without and with ACs. Rows are written as they come.

    python scripts/bench/sparse_training.py depth --results results/sparse_depth_digits-cpu.json
    python scripts/bench/sparse_training.py continual --results results/sparse_lwf_digits-cpu.json
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import summarise
from cl_ac.run import run
from cl_ac.settings.configured import configured

ROOT = Path(__file__).parents[2]

# The gain is that of the authors' networks of 1,000 layers.
PLAIN = {
    "approach": "FineTuning",
    "benchmark": "Digits",
    "benchmark.tasks": 1,
    "backbone": "PlainMLP",
    "backbone.width": 64,
    "training.epochs": 10,
    "training.batch_size": 32,
    "training.lr": 0.003,
    "training.momentum": 0.9,
    "training.schedule": "constant",
    "training.clip": 1.0,
    "sparse.density": 0.125,
    "sparse.layers": "uniform",
    "sparse.gain": 1.0247,
}
SPLIT = {"config": ROOT / "scripts" / "benchmarks" / "digits_5x2.yaml", "approach": "LwF", "sparse.jacobian": 0}


def depth(seeds: int, depths: list[int]) -> Iterator[dict[str, object]]:
    """The options of each run of the first study."""
    for seed in range(seeds):
        for layers in depths:
            for init in ("eoi", "orthogonal", "gaussian", "isometry"):
                yield {**PLAIN, "backbone.depth": layers, "sparse.init": init, "seed": seed}


def continual(seeds: int, depths: list[int]) -> Iterator[dict[str, object]]:
    """The options of each run of the second study; density 1 is the dense network."""
    for seed in range(seeds):
        for density, init in ((1.0, "eoi"), (0.1, "eoi"), (0.1, "own"), (0.1, "gaussian")):
            for exits in (None, "sdn"):
                yield {**SPLIT, "sparse.density": density, "sparse.init": init, "exits": exits, "seed": seed}


def measured(options: dict[str, object]) -> dict[str, object]:
    """What one run comes to."""
    with tempfile.TemporaryDirectory() as folder:
        shared = {"device": "cpu", "loggers": [], "out": folder, "name": "run"}
        experiment = configured({**options, **shared})
        run(**vars(experiment), console=Console(quiet=True))
        directory = RunDirectory(Path(folder) / "run")
        summary, start = summarise(directory), directory.sparsity()
        last = directory.sparsity(len(directory.records) - 1)
        row: dict[str, object] = {"accuracy": summary.accuracy, "forgetting": summary.forgetting}
        if start is not None and last is not None:
            row |= {"density": start.density, "orthogonality": start.orthogonality}
            row |= {"macs": last.macs[-1], "sparse_macs": last.sparse_macs[-1]}
            row["signals"] = None if start.signals is None else vars(start.signals)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["depth", "continual"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--depths", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them")
    arguments = parser.parse_args()
    study = depth if arguments.study == "depth" else continual
    shared = PLAIN if study is depth else SPLIT
    settings = {name: value for name, value in shared.items() if name != "config"}
    rows = []
    for options in study(arguments.seeds, arguments.depths):
        own = {name: value for name, value in options.items() if shared.get(name) != value}
        rows.append({**own, **measured(options)})
        Console().print(rows[-1])
        if arguments.results is not None:
            content = json.dumps({"settings": settings, "rows": rows, "provenance": provenance()}, indent=2)
            write_atomically(arguments.results, lambda file, content=content: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
