"""What replay by generation comes to on split digits, or on a pretrained network, and what it costs.

Fine-tuning, deep generative, brain-inspired, internal and progressive latent replay by each of its rules learn five
tasks of two classes with a network of three fully connected layers, as that of the paper but for its width; some
with ACs too. Accuracy is of the final exit and of the most confident one; multiply-accumulates (MACs) are for each new
image of the last task, by what they are spent on; seconds are CPU time of the whole run. Rows are written as they come.

With `--root`, a folder of 100 classes comes in ten tasks to a frozen EfficientNet-Lite0 with ImageNet weights and two
fully connected layers on its features, which is the paper's arrangement; features are computed once for all runs.

    python scripts/bench/generative_replay.py --results results/generative_replay_digits-cpu.json

    python scripts/bench/generative_replay.py --results results/generative_replay_digits-cpu.json --figure cost.png

    python scripts/bench/generative_replay.py --root ~/data/images --results results/generative_replay_features-cpu.json

With `--held_out`, accuracy is that on held-out training images, by which settings are chosen on other seeds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from pretrained_exits import Shared
from rich.console import Console

from cl_ac.data.recognised import Recall
from cl_ac.recording.figures import legend, panel
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import run
from cl_ac.settings.configured import configured
from cl_ac.training.settings import FrozenOutputs

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
# The best of 0.3, 1, 3, 10, 30 and 100 for internal replay on held-out images of seed 100, half as many of each class.
FREE = {**VAE, "approach.generator.noise": 30.0}
LEVELS = ["features", "layers.0", "penultimate"]
ON_FEATURES = {
    "config": "scripts/benchmarks/image_folder_10x10_lite0.yaml",
    "benchmark.samples_per_class": 200,
    "backbone.model": "scripts.bench.efficientnet_lite0.efficientnet_lite0_layers",
    "backbone.stages": LEVELS[:-1],
    "backbone.frozen": "features",
    "training.epochs": 10,
    "training.batch_size": 64,
    "training.optimizer": "adamw",
    "training.lr": 0.001,
    "training.momentum": 0,
    "training.schedule": "constant",
}
METHODS_ON_FEATURES: dict[str, dict[str, Any]] = {
    "fine-tuning": {"approach": "FineTuning"},
    "internal": {"approach": "InternalReplay", "approach.at": "features", **FREE},
    **{
        f"progressive, {rule}": {
            "approach": "ProgressiveLatentReplay",
            "approach.at": LEVELS,
            "approach.frequencies": rule,
            **FREE,
        }
        for rule in RULES
    },
}


@dataclass(frozen=True)
class Arranged:
    """What is measured.

    Args:
        settings: of all runs.
        acs: settings of those with ACs.
        methods: settings of each method.
        held: what frozen stages gave in earlier runs.
    """

    settings: dict[str, Any]
    acs: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    held: Recall | None = None

    @staticmethod
    def of(root: str | None) -> "Arranged":
        """On digits, or on the folder of images at `root`."""
        if root is None:
            return Arranged(SHARED, {"exits": "sdn"}, METHODS)
        held = FrozenOutputs(memory=2.0).recall(torch.device("cpu"))
        acs = {"exits.at": LEVELS[:-1], "exits.weights": [1, 1]}
        return Arranged({**ON_FEATURES, "benchmark.root": root, "exits": "null"}, acs, METHODS_ON_FEATURES, held)

    def runs(self, seeds: list[int], methods: list[str] | None) -> Iterator[tuple[str, bool, int]]:
        """Method, whether it has ACs, and seed of each run."""
        for seed in seeds:
            for with_acs in (False, True):
                for method in self.methods if methods is None else methods:
                    if not with_acs or method not in WITHOUT_ACS:
                        yield method, with_acs, seed

    def measured(self, options: dict[str, Any]) -> dict[str, Any]:
        """What one run comes to."""
        with tempfile.TemporaryDirectory() as folder:
            experiment = configured({**options, "device": "cpu", "loggers": [], "out": folder, "name": "run"})
            training = experiment.training
            if self.held is not None:
                training = replace(training, frozen_outputs=Shared(held=self.held))
            began = time.process_time()
            run(**{**vars(experiment), "training": training}, console=Console(quiet=True))
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
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--root", help="a folder of 100 classes; absent means digits")
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="settings to try, such as a rate")
    parser.add_argument("--held_out", action="store_true", help="report on held-out training images")
    parser.add_argument("--results", type=Path, help="a file for the numbers; runs that are in it are not run again")
    parser.add_argument("--figure", type=Path, help="draw the rows of --results into this file, and run nothing")
    arguments = parser.parse_args()
    if arguments.figure is not None:
        figure(json.loads(arguments.results.read_text())["rows"]).savefig(arguments.figure, bbox_inches="tight")
        return
    tried = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in arguments.set)}
    judged = {"benchmark.evaluate_on": "validation", "benchmark.validation": 0.2} if arguments.held_out else {}
    known = arguments.results is not None and arguments.results.exists()
    rows = json.loads(arguments.results.read_text())["rows"] if known else []
    arranged = Arranged.of(arguments.root)
    if unknown := {*(arguments.methods or [])} - arranged.methods.keys():
        parser.error(f"with --root there is no {', '.join(unknown)}; known: {', '.join(arranged.methods)}")
    done = [(row["method"], row["acs"], row["seed"], {n: v for n, v in row.items() if "." in n}) for row in rows]
    for method, with_acs, seed in arranged.runs(arguments.seeds, arguments.methods):
        if (method, with_acs, seed, tried) in done:
            continue
        exits = arranged.acs if with_acs else {}
        replays = tried if arranged.methods[method]["approach"] != "FineTuning" else {}
        own = {**arranged.settings, **judged, **arranged.methods[method], **exits, **replays, "seed": seed}
        rows.append({"method": method, "acs": with_acs, "seed": seed, **tried, **arranged.measured(own)})
        Console().print(rows[-1])
        if arguments.results is not None:
            kept = {"settings": arranged.settings, "rows": rows, "provenance": provenance()}
            content = json.dumps(kept, indent=2) + "\n"
            write_atomically(arguments.results, lambda file, content=content: file.write_text(content))


if __name__ == "__main__":
    main()
