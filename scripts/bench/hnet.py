#!/usr/bin/env python3
"""HNET on split digits where the task is known: its strength chosen on held-out samples of some seeds, then others.

The settings are those of scripts/benchmarks/digits_5x2.yaml. A fifth of the training samples is held out to choose by;
the test images of the other seeds choose nothing.
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from cl_ac.recording.files import write_atomically
from cl_ac.recording.provenance import provenance
from cl_ac.run import run
from cl_ac.serving.finished import finished
from cl_ac.settings.configured import configured

CONFIG = "scripts/benchmarks/digits_5x2.yaml"


def trained(folder: Path, seed: int, exits: str | None, device: str, **changes: Any) -> dict[str, Any]:
    """A finished run: its accuracy with the task known, mean over tasks, on test images and on those held out."""
    shared = {"config": CONFIG, "approach": "HNET", "device": device, "loggers": [], "seed": seed, "out": str(folder)}
    name = f"{seed}-{exits}-{changes}"
    experiment = configured({**shared, **changes, "name": name, **({"exits": exits} if exits else {})})
    began = time.process_time()
    last = run(**vars(experiment), console=Console(quiet=True))[-1]
    seconds = time.process_time() - began
    done = finished(experiment.directory, device)
    held_out = []
    for task in experiment.benchmark.tasks if experiment.benchmark.validation else ():
        answer = partial(done.objects.approach.answer_in_task, done.network, task=task.index)
        found = done.trainer.predict(done.network, task.validation, answer)[-1].argmax(-1) + task.classes.start
        held_out.append((found == task.validation.targets).double().mean().item())
    known = last.most_confident_task_incremental
    return {
        "seed": seed, "exits": exits, **changes, "known_task": mean(known), "per_task": known,
        "accuracy": mean(last.most_confident), "held_out_known_task": mean(held_out), "cpu_seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--choose_seeds", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, help="a file for the numbers and what made them")
    arguments = parser.parse_args()
    choice, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        # One strength is no choice.
        for strength in arguments.strengths if len(arguments.strengths) > 1 else ():
            held_out = {"approach.strength": strength, "benchmark.validation": 0.2}
            choice += [
                trained(Path(folder), seed, None, arguments.device, **held_out) for seed in arguments.choose_seeds
            ]
        by_strength = {
            strength: mean(each["held_out_known_task"] for each in choice if each["approach.strength"] == strength)
            for strength in (arguments.strengths if choice else ())
        }
        chosen = max(by_strength, key=by_strength.__getitem__, default=arguments.strengths[0])
        for exits in (None, "sdn"):
            for seed in arguments.seeds:
                rows.append(trained(Path(folder), seed, exits, arguments.device, **{"approach.strength": chosen}))
    table = Table("exits", "known task, %", "deviation", "CPU s a run", title=f"strength {chosen:g} of {by_strength}")
    for exits in (None, "sdn"):
        found = [row for row in rows if row["exits"] == exits]
        known = [100 * row["known_task"] for row in found]
        spread = stdev(known) if len(known) > 1 else 0.0
        seconds = mean(row["cpu_seconds"] for row in found)
        table.add_row(str(exits), f"{mean(known):.1f}", f"{spread:.1f}", f"{seconds:.0f}")
    Console().print(table)
    if arguments.results is not None:
        options = {name: value for name, value in vars(arguments).items() if name != "results"}
        kept = {"settings": options, "held_out": by_strength, "chosen": chosen, "choice": choice, "rows": rows}
        content = json.dumps({**kept, "provenance": provenance()}, indent=2)
        write_atomically(arguments.results, lambda file: file.write_text(content + "\n"))


if __name__ == "__main__":
    main()
