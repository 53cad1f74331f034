"""What replay by generation comes to on split digits, and what it costs.

Fine-tuning, deep generative, brain-inspired, internal and progressive latent replay by each of its rules learn five
tasks of two classes with a network of three fully connected layers, as that of the paper but for its width; some
with ACs too. Accuracy is of the final exit and of the most confident one; multiply-accumulates (MACs) are for each new
image of the last task, by what they are spent on; seconds are CPU time of the whole run. Rows are written as they come.

    python scripts/bench/generative_replay.py --results results/generative_replay_digits-cpu.json

    python scripts/bench/generative_replay.py --results results/generative_replay_digits-cpu.json --figure cost.png

With `--held_out`, accuracy is that on held-out training images, by which settings are chosen on other seeds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from cl_ac.recording.figures import legend, panel
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import run
from cl_ac.settings.configured import configured

SHARED = {
    "benchmark": "Digits",
    "benchmark.tasks": 5,
    "backbone": "PlainMLP",
    "backbone.depth": 3,
    "backbone.width": 256,
    "backbone.activation": "relu",
    "training.epochs": 20,
    "training.batch_size": 64,
    "training.optimizer": "adamw",
    "training.lr": 0.002,
    "training.schedule": "constant",
}
RULES = ("basic", "cumulative_weights", "total_weights", "input_size", "layer_index")
# The best noise of 0.1, 1 and 3 with a rate of 0.003, and of 0.1 and 1 with 0.01, on held-out images of seed 100.
VAE = {"approach.generator": "VAE", "approach.labels": "distilled"}
IMAGES = {**VAE, "approach.generator.noise": 0.1}
FEATURES = {**VAE, "approach.generator.noise": 3.0}
METHODS: dict[str, dict[str, Any]] = {
    "fine-tuning": {"approach": "FineTuning"},
    "generative": {"approach": "GenerativeReplay", **IMAGES},
    "generative, 3 experts": {"approach": "GenerativeReplay", **IMAGES, "approach.generator": "MixtureOfExperts"},
    "brain-inspired": {"approach": "BrainInspiredReplay", "approach.at": "layer0", "approach.noise": 1.0},
    "internal": {"approach": "InternalReplay", "approach.at": "layer0", **FEATURES},
    **{
        f"progressive, {rule}": {
            "approach": "ProgressiveLatentReplay",
            "approach.at": ["layer0", "layer1", "layer2"],
            "approach.frequencies": rule,
            **FEATURES,
        }
        for rule in RULES
    },
}
WITHOUT_ACS = ("generative, 3 experts",)


def rows_of(seeds: list[int], methods: list[str]) -> Iterator[tuple[str, bool, int]]:
    """Method, whether it has ACs, and seed of each run."""
    for seed in seeds:
        for with_acs in (False, True):
            for method in methods:
                if not with_acs or method not in WITHOUT_ACS:
                    yield method, with_acs, seed


def measured(options: dict[str, Any]) -> dict[str, Any]:
    """What one run comes to."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = configured({**options, "device": "cpu", "loggers": [], "out": folder, "name": "run"})
        began = time.process_time()
        run(**vars(experiment), console=Console(quiet=True))
        seconds = time.process_time() - began
        directory = RunDirectory(Path(folder) / "run")
        last = directory.records[-1]
        exits = [sum(column) / len(column) for column in zip(*last.exits, strict=True)]
        confident = sum(last.most_confident) / len(last.most_confident)
        return {"exits": exits, "most_confident": confident, "macs": last.training_macs, "cpu_seconds": seconds}


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Accuracy of runs without ACs against what training costs, mean over seeds."""
    with panel() as (drawn, axes):
        for method in METHODS:
            found = [row for row in rows if row["method"] == method and not row["acs"] and row["macs"]]
            if found:
                cost = sum(sum(row["macs"].values()) for row in found) / len(found) / 1e3
                accuracy = 100 * sum(row["most_confident"] for row in found) / len(found)
                axes.plot(cost, accuracy, "o", label=method)
        axes.set_xlim(left=0)
        axes.set_xlabel("thousand multiply-accumulates of training for each new image")
        axes.set_ylabel("accuracy (%)")
        legend(drawn, axes)
        return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="settings to try, such as a rate")
    parser.add_argument("--held_out", action="store_true", help="report on held-out training images")
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them; rows in it are kept")
    parser.add_argument("--figure", type=Path, help="draw the rows of --results into this file, and run nothing")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        figure(json.loads(arguments.results.read_text())["rows"]).savefig(arguments.figure, bbox_inches="tight")
        return
    tried = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in arguments.set)}
    judged = {"benchmark.evaluate_on": "validation", "benchmark.validation": 0.2} if arguments.held_out else {}
    known = arguments.results is not None and arguments.results.exists()
    rows = json.loads(arguments.results.read_text())["rows"] if known else []
    for method, with_acs, seed in rows_of(arguments.seeds, arguments.methods):
        exits = {"exits": "sdn"} if with_acs else {}
        replays = tried if METHODS[method]["approach"] != "FineTuning" else {}
        own = {**SHARED, **judged, **METHODS[method], **exits, **replays, "seed": seed}
        rows.append({"method": method, "acs": with_acs, "seed": seed, **tried, **measured(own)})
        Console().print(rows[-1])
        if arguments.results is not None:
            content = json.dumps({"settings": SHARED, "rows": rows, "provenance": provenance()}, indent=2)
            write_atomically(arguments.results, lambda file, content=content: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
