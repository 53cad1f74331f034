"""Methods on a frozen pretrained network at each of its exits, against a joint classifier of scikit-learn.

    python scripts/bench/pretrained_exits.py --root ~/data/images --size 96 --results results/pretrained_exits.json

All runs of `METHODS` take one settings file. The network runs once over all images; what its frozen stages gave is then
shared by the runs, so that the seconds of a run are those of the method alone: learning, answers to all test images
seen after each task, and files. Those of the one pass stand beside them. Printed for each method: accuracy and
forgetting of each exit after the last task, accuracy of the most confident exit, of the best threshold, and within
budgets, all as means over tasks; and the cost at which a threshold is as accurate as the final exit.

The oracles are scikit-learn's linear discriminant analysis with Ledoit-Wolf shrinkage on the features of the final exit
and all classes at once, and the same with one pooled covariance; `Gaussian` task by task should equal both.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from cl_ac.data.recognised import Recall
from cl_ac.evaluation import average, average_incremental, forgetting
from cl_ac.exits.curves import accuracy_at_budgets, average_curve, cost_at_accuracy, task_curves
from cl_ac.network import ExitNetwork
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.run import choose_device, run
from cl_ac.settings.configured import Configured, configured
from cl_ac.training import Trainer
from cl_ac.training.settings import FrozenOutputs

SETTINGS = "scripts/benchmarks/image_folder_10x10_lite0.yaml"
CLOSED = {"training.epochs": 0, "loggers": []}
METHODS: dict[str, dict[str, Any]] = {
    "nearest mean": {**CLOSED, "classifier": "NearestMean"},
    "Gaussian, Ledoit-Wolf": {**CLOSED, "classifier": "Gaussian", "classifier.shrinkage": "ledoit_wolf"},
    "Gaussian, each class Ledoit-Wolf": {
        **CLOSED,
        "classifier": "Gaussian",
        "classifier.shrinkage": "class_ledoit_wolf",
    },
    "SLDA": {**CLOSED, "classifier": "Gaussian", "classifier.shrinkage": 1e-4},
    "FeCAM": {**CLOSED, "classifier": "FeCAM"},
    # The paper's 10,000 cost five times as many exits hours on one core.
    "RanPAC, 2,000 wide": {**CLOSED, "classifier": "RanPAC", "classifier.width": 2000},
    "linear": {"approach": "FineTuning", "loggers": []},
    "linear, 2,000 exemplars": {"approach": "ER", "loggers": []},
}
BUDGETS = (0.5, 0.75, 1.0)
ORACLES = ("LDA of scikit-learn, joint", "pooled Ledoit-Wolf, joint")


@dataclass(frozen=True)
class Shared(FrozenOutputs):
    """What frozen stages gave, kept for several runs.

    Args:
        held: where it is.
    """

    held: Recall | None = None

    def recall(self, device: torch.device) -> Recall | None:
        return self.held


@dataclass(frozen=True)
class Features:
    """Of the final exit: training features [N, D] and targets [N], those of the test images, and the task of each."""

    train: Tensor
    train_targets: Tensor
    test: Tensor
    test_targets: Tensor
    test_tasks: Tensor


def prepared(arguments: argparse.Namespace, out: Path, options: dict[str, Any]) -> Configured:
    """One run that is ready to start."""
    given = {name: getattr(arguments, name) for name in ("samples_per_class", "test_samples_per_class")}
    shared = {
        "config": arguments.settings,
        "benchmark.root": arguments.root,
        "benchmark.augmentation.size": arguments.size,
        **{f"benchmark.{name}": value for name, value in given.items() if value is not None},
        "device": arguments.device,
        "seed": arguments.seed,
        "out": str(out),
    }
    return configured({**shared, **options})


def one_pass(experiment: Configured, recall: Recall, device: torch.device) -> tuple[float, Features]:
    """Seconds of one pass over all images, and what the final exit reads of them."""
    network = ExitNetwork(experiment.backbone, experiment.exits).to(device, memory_format=torch.channels_last)
    network.grow(sum(experiment.benchmark.sizes), 0)
    trainer = Trainer(experiment.training, experiment.benchmark.augmentation, device, recall=recall)
    tasks, began = experiment.benchmark.tasks, time.perf_counter()
    found = [[trainer.features(network, samples)[-1] for samples in (task.train, task.test)] for task in tasks]
    seconds = time.perf_counter() - began
    train, test = (torch.cat(parts) for parts in zip(*found, strict=True))
    targets = [torch.cat([getattr(task, part).targets for task in tasks]).cpu() for part in ("train", "test")]
    of_task = torch.cat([torch.full((len(task.test),), task.index) for task in tasks])
    return seconds, Features(train, targets[0], test, targets[1], of_task)


def oracles(features: Features) -> dict[str, dict[str, float]]:
    """Accuracy of two classifiers of all classes at once, as means over tasks, and their seconds.

    The first is scikit-learn's as it is, which shrinks the covariance of each class, of standardised features, and
    takes their mean. The second has scikit-learn's estimate of the pooled covariance, as `Gaussian` with
    `ledoit_wolf` has.
    """
    train, test, targets = features.train.double(), features.test.double(), features.train_targets
    began = time.perf_counter()
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train.numpy(), targets.numpy())
    answers = torch.from_numpy(classifier.predict(test.numpy()))
    found = {ORACLES[0]: {"accuracy": mean_over_tasks(answers, features), "seconds": time.perf_counter() - began}}
    began = time.perf_counter()
    means = torch.stack([train[targets == label].mean(0) for label in targets.unique()])
    covariance, _ = ledoit_wolf((train - means[targets]).numpy(), assume_centered=True)
    weight = torch.linalg.solve(torch.from_numpy(covariance), means.T)  # [D, C]
    answers = (test @ weight - (means * weight.T).sum(1) / 2).argmax(1)
    found[ORACLES[1]] = {"accuracy": mean_over_tasks(answers, features), "seconds": time.perf_counter() - began}
    return found


def mean_over_tasks(answers: Tensor, features: Features) -> float:
    """Accuracy of answers to the test images."""
    right = (answers == features.test_targets).double()
    return (
        torch.stack([right[features.test_tasks == task].mean() for task in features.test_tasks.unique()]).mean().item()
    )


def measured(directory: RunDirectory, seconds: float) -> dict[str, Any]:
    """The numbers of one finished run; all accuracies are means over tasks."""
    accuracies, answers = directory.accuracies(), directory.ac_accuracies()
    outputs = directory.outputs(directory.records[-1].task)
    curve, final = average_curve(task_curves(outputs)), average(accuracies[-1])[-1].item()
    best = curve.accuracy.argmax()
    return {
        "accuracy": average(accuracies[-1]).tolist(),
        "incremental": average_incremental(accuracies).tolist(),
        "forgetting": forgetting(accuracies).mean(0).tolist(),
        "most_confident": average(answers[-1]).item(),
        "most_confident_forgetting": forgetting(answers).mean().item(),
        "best_threshold": {"accuracy": curve.accuracy[best].item(), "cost": curve.cost[best].item()},
        "budgets": accuracy_at_budgets(curve, BUDGETS),
        "cost_at_final": cost_at_accuracy(curve, final),
        "cost": outputs.cost.relative,
        "macs": {"exits": outputs.cost.exits, "plain": outputs.cost.plain},
        "seconds": seconds,
    }


def tables(rows: dict[str, dict[str, Any]]) -> list[Table]:
    """Accuracy and forgetting of each exit, and early exits, in %."""
    exits = len(next(iter(rows.values()))["accuracy"])
    found = []
    for key in ("accuracy", "forgetting", "cost"):
        table = Table("method", *(f"exit {index}" for index in range(exits - 1)), "final", title=f"{key}, %")
        for name, row in rows.items():
            table.add_row(name, *map(percent, row[key]))
        found.append(table)
    budgets = [f"at {100 * budget:.0f} %" for budget in BUDGETS]
    names = ["method", "final", "most confident", "best threshold", *budgets, "cost at final", "seconds"]
    table = Table(*names, title="early exit, %")
    for name, row in rows.items():
        alone = [row["accuracy"][-1], row["most_confident"], row["best_threshold"]["accuracy"], *row["budgets"]]
        reached = "–" if row["cost_at_final"] is None else percent(row["cost_at_final"])
        table.add_row(name, *map(percent, alone), reached, f"{row['seconds']:.0f}")
    return [*found, table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder of images")
    parser.add_argument("--settings", default=SETTINGS, help="of all runs")
    parser.add_argument("--size", type=int, default=96, help="side that images are enlarged to, in pixels")
    parser.add_argument("--samples_per_class", type=int, help="at most so many training images of a class")
    parser.add_argument("--test_samples_per_class", type=int, help="at most so many test images of a class")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--memory", type=float, default=2.0, help="GiB in which outputs are kept; files beyond it")
    parser.add_argument("--folder", type=Path, help="of these files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="folder of the runs, which are kept then")
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them")
    arguments = parser.parse_args()
    device, console, rows = choose_device(arguments.device), Console(width=150), {}
    kept = FrozenOutputs(memory=arguments.memory, folder=str(arguments.folder) if arguments.folder else None)
    recall = kept.recall(device)
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        pass_seconds, features = one_pass(prepared(arguments, out, {"name": "pass"}), recall, device)
        joint = oracles(features)
        told = "; ".join(f"{name}: {percent(row['accuracy'])} %" for name, row in joint.items())
        console.print(f"one pass {pass_seconds:.0f} s; {told}")
        for number, name in enumerate(arguments.methods):
            experiment = prepared(arguments, out, {**METHODS[name], "name": f"method_{number}"})
            training = replace(experiment.training, frozen_outputs=Shared(held=recall))
            _ = experiment.benchmark.tasks
            began = time.perf_counter()
            run(**{**vars(experiment), "training": training}, console=Console(quiet=True))
            rows[name] = measured(experiment.directory, time.perf_counter() - began)
            console.print(f"{name}: {percent(rows[name]['accuracy'][-1])} %, {rows[name]['seconds']:.0f} s")
            if arguments.results is not None:
                given = ("settings", "size", "samples_per_class", "test_samples_per_class", "seed")
                content = {
                    "settings": {each: getattr(arguments, each) for each in given},
                    "methods": {each: METHODS[each] for each in rows},
                    "budgets": BUDGETS,
                    "pass_seconds": pass_seconds,
                    "oracles": joint,
                    "rows": rows,
                    "provenance": provenance(),
                }
                text = json.dumps(content, indent=1) + "\n"
                write_atomically(arguments.results, lambda file, text=text: file.write_text(text))
    for table in tables(rows):
        console.print(table)


if __name__ == "__main__":
    main()
