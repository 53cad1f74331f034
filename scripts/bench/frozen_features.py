"""What class-incremental learning on a frozen network costs, in passes of that network over the data.

scikit-learn's digits, enlarged, through a small network of torchvision whose stages are all frozen: ten tasks of one
class, with linear heads, nearest means and a closed form on both exits. On a CPU with one thread (OMP_NUM_THREADS=1)
seconds are those of the processor, elsewhere of the clock. A run's seconds are divided by those of one pass of all
training and test images through the same network, measured right before it; the target is at most 1.15. The network has
its initial weights: only costs are measured. The state of a network is saved after each epoch, which counts too.

    python scripts/bench/frozen_features.py
    python scripts/bench/frozen_features.py --side 224 --results results/frozen_features-cpu.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from cl_ac.network import ExitNetwork
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.run import choose_device, run
from cl_ac.settings.configured import Configured, configured
from cl_ac.training import Trainer

RUNS = {
    "linear heads, 200 exemplars": {"memory.size": 200},
    "nearest means": {"classifier": "NearestMean", "training.epochs": 0},
    "closed form (ACIL)": {"classifier": "ACIL", "classifier.width": 512, "training.epochs": 0},
    "linear heads, nothing kept": {"memory.size": 200, "training.frozen_outputs.keep": False},
}


def settings(folder: Path, model: str, side: int, epochs: int, exits: Sequence[str], device: str) -> dict[str, object]:
    """The options that all runs share."""
    return {
        "benchmark": "Digits",
        "benchmark.tasks": 10,
        "benchmark.validation": "test",
        "benchmark.augmentation.size": side,
        "benchmark.augmentation.mean": [0.5, 0.5, 0.5],
        "benchmark.augmentation.std": [0.5, 0.5, 0.5],
        "benchmark.augmentation.crop": "none",
        "benchmark.augmentation.padding": 0,
        "approach": "FineTuning",
        "backbone": f"torchvision:{model}",
        "backbone.stages": list(exits),
        "backbone.frozen": "all",
        "exits.at": list(exits),
        "exits.weights": [1.0] * len(exits),
        "training.epochs": epochs,
        "training.batch_size": 64,
        "training.lr": 0.01,
        "training.schedule": "constant",
        "device": device,
        "loggers": [],
        "out": str(folder),
    }


def clock(device: torch.device) -> float:
    """Seconds, which other programs on a busy processor do not change."""
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def one_pass(experiment: Configured, device: torch.device) -> float:
    """Seconds of one pass of all images through the network of a run."""
    network = ExitNetwork(experiment.backbone, experiment.exits).to(device, memory_format=torch.channels_last)
    network.grow(10, 0)
    trainer = Trainer(experiment.training, experiment.benchmark.augmentation, device)
    tasks = experiment.benchmark.tasks
    trainer.features(network, tasks[0].test)  # what is slow the first time
    began = clock(device)
    for task in tasks:
        for samples in (task.train, task.test):
            trainer.features(network, samples)
    return clock(device) - began


def measure(options: dict[str, object], device: torch.device) -> tuple[float, float]:
    """Seconds of one pass and of a run."""
    once = one_pass(configured({**options, "name": "pass"}), device)
    experiment = configured({**options, "name": "run"})
    _ = experiment.benchmark.tasks
    began = clock(device)
    run(**vars(experiment), console=Console(quiet=True))
    return once, clock(device) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet_v2", help="a model of torchvision")
    parser.add_argument("--side", type=int, default=96, help="of the enlarged digits, in pixels")
    parser.add_argument("--epochs", type=int, default=5, help="of the linear heads on each task")
    parser.add_argument("--exits", nargs="*", default=["features.6"], help="submodules at which ACs hang")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them")
    arguments = parser.parse_args()
    given = arguments.model, arguments.side, arguments.epochs, arguments.exits
    device, rows = choose_device(arguments.device), []
    for name, options in RUNS.items():
        measured = []
        for _ in range(arguments.repeats if "nothing" not in name else 1):
            with tempfile.TemporaryDirectory() as folder:
                shared = settings(Path(folder), *given, str(device))
                measured.append(measure({**shared, **options}, device))
        once, seconds = (median(values) for values in zip(*measured, strict=True))
        ratio = median(run_seconds / pass_seconds for pass_seconds, run_seconds in measured)
        rows.append({"run": name, "pass": once, "seconds": seconds, "ratio": ratio})
    table = Table("run", "one pass, s", "10 tasks, s", "ratio")
    for row in rows:
        table.add_row(row["run"], f"{row['pass']:.2f}", f"{row['seconds']:.2f}", f"{row['ratio']:.2f}")
    Console().print(table)
    if arguments.results is not None:
        options = {name: value for name, value in vars(arguments).items() if name != "results"}
        content = json.dumps({"settings": options, "rows": rows, "provenance": provenance()}, indent=2)
        write_atomically(arguments.results, lambda file: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
