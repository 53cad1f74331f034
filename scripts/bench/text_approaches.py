#!/usr/bin/env python3
"""Approaches on a sentence encoder that learns intents, task after task: CLINC-150 in tasks of ten.

Needs the folder of CLINC-150 as CSV files (`train.csv`, `test.csv`, each with `text` and `label`) and the folder of an
encoder. Beside accuracies, what adapters add and how often they are routed to the right task is kept. What was stopped
goes on from --out.

    python scripts/bench/text_approaches.py --data ~/data/clinc150 --model FOLDER --results text_approaches.json
"""

import argparse
import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cl_ac.data.tables import labelled
from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.run import run
from cl_ac.serving.finished import Finished, finished
from cl_ac.settings.configured import configured

FROZEN = {"training.epochs": 0, "backbone.frozen": "all"}
WHOLE = {"training.lr": 0.0005}
ADAPTERS = {"training.lr": 0.002}
RUNS: dict[str, dict[str, Any]] = {
    "SimpleCIL": {"approach": "SimpleCIL", **FROZEN},
    "FineTuning": {"approach": "FineTuning", **WHOLE},
    "LwF": {"approach": "LwF", **WHOLE},
    "ER": {"approach": "ER", "memory.per_class": 5, **WHOLE},
    "LAE": {
        "approach": "LAE",
        "approach.kind": "lora",
        "approach.frozen_epochs": 0,
        "approach.decay": 0.95,
        **ADAPTERS,
    },
    "EASE": {"approach": "EASE", **ADAPTERS},
    "RoutedAdapters": {"approach": "RoutedAdapters", **ADAPTERS},
    "RoutedAdapters, top 1": {"approach": "RoutedAdapters", "approach.top": 1, **ADAPTERS},
}


def few(source: Path, most: int, target: Path) -> None:
    """Writes the first `most` texts of each label of a table to another."""
    table, seen = labelled(source, "text", "label"), dict[object, int]()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for text, label in zip(table.texts, table.labels, strict=True):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= most:
                writer.writerow([text, label])


def routing(done: Finished) -> dict[str, float]:
    """How often the right task's adapter has the largest weight, and how many numbers are kept beside the network."""
    classifier, network = done.objects.approach.inference, done.network
    right, total = 0, 0
    for task in done.objects.benchmark.tasks:
        weights = done.trainer.predict(network, task.test, lambda images: classifier.route(network, images))
        right += int((weights.argmax(1) == task.index).sum())
        total += len(task.test)
    adapters = sum(value.numel() for name, value in network.named_parameters() if ".entries." in name)
    means = sum(buffer.numel() for buffer in classifier.buffers())
    whole = sum(parameter.numel() for parameter in network.backbone.parameters())
    return {"routed to the right task": right / total, "adapters": adapters, "means": means, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True, help="the folder of a sentence encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/text_approaches"), help="the folder of tables and runs")
    parser.add_argument("--train", type=int, default=100, help="texts of each intent to train on")
    parser.add_argument("--test", type=int, default=30, help="texts of each intent to test on")
    parser.add_argument("--tasks", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them")
    given = parser.parse_args()
    origin, tables = provenance(), given.out / "tables"
    for part, most in (("train", given.train), ("test", given.test)):
        few(given.data.expanduser() / f"{part}.csv", most, tables / f"{part}.csv")
    shared = {
        "benchmark": "TextTable",
        **{f"benchmark.{part}": str(tables / f"{part}.csv") for part in ("train", "test")},
        "benchmark.tasks": given.tasks, "benchmark.validation": 0, "backbone": f"hf:{given.model}",
        "backbone.weights": True, "training.epochs": given.epochs, "training.batch_size": given.batch_size,
        "training.optimizer": "adamw", "training.schedule": "cosine", "seed": given.seed, "device": given.device,
        "loggers": [], "out": str(given.out), "resume": True,
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    console = Console()
    for name in given.runs:
        experiment = configured({**shared, **RUNS[name], "name": name.replace(", ", "_").replace(" ", "_")})
        records = run(**vars(experiment), console=Console(quiet=True))
        accuracy = [mean(record.most_confident) for record in records]
        cost = experiment.directory.outputs(len(records) - 1).cost.plain
        seconds = sum(record.seconds for record in records)
        rows[name] = {"settings": RUNS[name], "accuracy": accuracy, "macs": cost, "seconds": seconds}
        if RUNS[name]["approach"] == "RoutedAdapters":
            with torch.no_grad():
                rows[name] |= routing(finished(experiment.directory, given.device))
        console.print(name, [f"{100 * value:.1f}" for value in accuracy], f"{seconds:.0f} s")
        if given.results is not None:
            options = {
                key: value for key, value in vars(given).items() if key not in ("data", "model", "out", "results")
            }
            kept = {"settings": {**options, "runs": list(rows)}, "rows": rows, "provenance": origin}
            text = json.dumps(kept, indent=1) + "\n"
            write_atomically(given.results, lambda file, text=text: file.write_text(text))
    table = Table("approach", *(f"after task {task}, %" for task in (1, 5, 10, given.tasks)), "cost")
    base = min(row["macs"] for row in rows.values())
    for name, row in rows.items():
        shown = [row["accuracy"][task - 1] for task in (1, 5, 10, given.tasks) if task <= given.tasks]
        table.add_row(name, *(f"{100 * value:.1f}" for value in shown), f"{row['macs'] / base:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
