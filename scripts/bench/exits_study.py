"""What ACs give within budgets: the runs of a study with ACs against the same runs without them.

    python scripts/bench/exits_study.py runs/study/* --results results/exits.json

Runs are paired by all their settings but `exits`, and averaged over seeds. Printed are the accuracy of the network
without ACs and of the one with ACs at 50, 75 and 100 % of its cost (confidence rule, mean over tasks), the rule with
the largest area under its curve, and EEFP and ECE of each exit.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cl_ac.evaluation import average
from cl_ac.exits.curves import accuracy_at_budgets, area, average_curve, cost_at_accuracy, task_curves
from cl_ac.exits.quality import calibration_errors, eefp
from cl_ac.recording.provenance import provenance
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.stored_settings import flatten
from cl_ac.recording.summary import percent
from cl_ac.report.exits import RULES

BUDGETS = (0.5, 0.75, 1.0)


def setting(directory: RunDirectory) -> tuple:
    """What tells runs apart but for their ACs and what does not change their numbers."""
    left_out = ("out", "name", "device", "resume", "loggers", "watch", "exits")
    flat = flatten(directory.config)
    return tuple(sorted((key, str(value)) for key, value in flat.items() if not key.startswith(left_out)))


def label(directory: RunDirectory) -> str:
    """The approach, and its memory if it could do without."""
    config = directory.config
    size = config["memory"]["size"]
    return config["approach"]["class_path"].rpartition(".")[2] + (f", {size} exemplars" if size else "")


def analysed(directory: RunDirectory, plain: float) -> dict:
    """The numbers of one run with ACs; `plain` is the accuracy of the one without."""
    outputs = directory.outputs(directory.records[-1].task)
    curves = {name: average_curve(task_curves(outputs, rule)) for name, rule in RULES.items()}
    areas = {name: area(curve) for name, curve in curves.items()}
    return {
        "plain": plain,
        "budgets": accuracy_at_budgets(curves["confidence"], BUDGETS),
        "best": curves["confidence"].accuracy.max().item(),
        "cost_at_plain": cost_at_accuracy(curves["confidence"], plain),
        "areas": areas,
        "eefp": eefp(outputs),
        "ece": calibration_errors(outputs),
        "accuracy": average(directory.accuracies()[-1]).tolist(),
    }


def collect(directories: list[RunDirectory]) -> dict[str, list[dict]]:
    """The numbers of all runs with ACs that have a partner without, by label."""
    finished = [each for each in directories if each.records]
    plain = {setting(each): each for each in finished if not each.config.get("exits")}
    found = defaultdict(list)
    for each in finished:
        partner = plain.get(setting(each))
        if each.config.get("exits") and partner is not None:
            found[label(each)].append(analysed(each, average(partner.ac_accuracies()[-1]).item()))
    return found


def mean(rows: list[dict], key: str) -> list[float]:
    """Mean over seeds of a list of numbers, of what is defined."""
    values = [[torch.nan if value is None else value for value in row[key]] for row in rows]
    return torch.tensor(values, dtype=torch.float64).nanmean(0).tolist()


def budget_table(found: dict[str, list[dict]]) -> Table:
    """Accuracy within budgets against the network without ACs, %."""
    table = Table(title="accuracy with ACs within a budget, mean over tasks and seeds, %")
    for name in ("approach", "seeds", "plain", *(f"at {100 * budget:.0f} %" for budget in BUDGETS), "best"):
        table.add_column(name, justify="left" if name == "approach" else "right")
    table.add_column("cost at equal accuracy", justify="right")
    table.add_column("rule of largest area")
    for name, rows in found.items():
        costs = [row["cost_at_plain"] for row in rows if row["cost_at_plain"] is not None]
        equal = f"{percent(sum(costs) / len(costs), 0)} ({len(costs)} of {len(rows)})" if costs else "not reached"
        winners = Counter(max(row["areas"], key=row["areas"].get) for row in rows)
        scalars = [sum(row[key] for row in rows) / len(rows) for key in ("plain", "best")]
        within = [percent(value) for value in mean(rows, "budgets")]
        rules = ", ".join(f"{rule} ({count})" for rule, count in winners.most_common())
        table.add_row(name, str(len(rows)), percent(scalars[0]), *within, percent(scalars[1]), equal, rules)
    return table


def exit_table(found: dict[str, list[dict]], key: str, title: str) -> Table:
    """One number of each exit."""
    table = Table(title=title)
    table.add_column("approach")
    exits = max(len(rows[0][key]) for rows in found.values())
    for index in range(exits):
        table.add_column("final" if index == exits - 1 else f"exit {index}", justify="right")
    for name, rows in found.items():
        table.add_row(name, *(percent(value) for value in mean(rows, key)))
    return table


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    found = collect([RunDirectory(path) for path in arguments.runs if (path / "config.yaml").exists()])
    if not found:
        parser.error("no run with ACs among these has a partner without them")
    console = Console(width=180)
    console.print(budget_table(found))
    for key, title in (("accuracy", "accuracy"), ("eefp", "EEFP"), ("ece", "ECE")):
        console.print(exit_table(found, key, f"{title} of each exit, %"))
    if arguments.results:
        arguments.results.write_text(
            json.dumps({"provenance": provenance(), "budgets": BUDGETS, "runs": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
