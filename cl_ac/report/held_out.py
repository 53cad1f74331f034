"""Tables of what is fitted to logits after training, on the test samples: thresholds, calibration, corrections."""

from collections.abc import Sequence

import torch
from rich.table import Table

from cl_ac.errors import UserError
from cl_ac.evaluation import Outputs, average, exit_accuracy
from cl_ac.exits.calibration import (
    fit_scorer,
    fit_temperature,
    fit_vector_scaling,
    with_temperature,
    with_vector_scaling,
)
from cl_ac.exits.curves import BUDGETS, average_curve, rule_within_budget, task_curves
from cl_ac.exits.quality import calibration_errors, eefp, mean_defined
from cl_ac.exits.rules import Confidence, Entropy, Margin, Patience, Rule, decide
from cl_ac.recording.summary import percent
from cl_ac.report.exits import budget_table
from cl_ac.serving.held_out import Correction
from cl_ac.watching.stability import exit_names


def correction_tables(correction: Correction) -> list[Table]:
    """Accuracy within budgets and area, without and with TLC, and the accuracy of each exit."""
    kinds = {"without": correction.before, "with TLC": correction.after}
    curves = {}
    for name, outputs in kinds.items():
        curves[f"{name}, mean over tasks"] = average_curve(task_curves(outputs))
        curves[f"{name}, weighted by classes"] = average_curve(task_curves(outputs), outputs.sizes)
    added = f"{correction.slope:.3g} for each later task and {correction.offset:.3g} for all but the last"
    budgets = budget_table(f"task-wise logits correction, confidence rule; it adds {added}", curves)
    exits = Table(title="accuracy of each exit, mean over tasks, %")
    exits.add_column("")
    for name in exit_names(len(correction.before.logits)):
        exits.add_column(name, justify="right")
    for name, outputs in kinds.items():
        exits.add_row(name, *map(percent, average(exit_accuracy(outputs)).tolist()))
    return [budgets, exits]


def candidates(held_out: Outputs, test: Outputs) -> dict[str, tuple[Rule, Outputs, Outputs, bool]]:
    """By name: a rule, the held-out and the test outputs that it reads, and whether each exit has its own threshold."""
    temperatures, vectors = fit_temperature(held_out), fit_vector_scaling(held_out)
    plain = held_out, test
    warmed = with_temperature(held_out, temperatures), with_temperature(test, temperatures)
    scaled = with_vector_scaling(held_out, *vectors), with_vector_scaling(test, *vectors)
    return {
        "confidence": (Confidence(), *plain, False),
        "confidence, quantile per exit": (Confidence(), *plain, True),
        "confidence, temperature scaling": (Confidence(), *warmed, False),
        "confidence, vector scaling": (Confidence(), *scaled, False),
        "entropy": (Entropy(), *plain, False),
        "margin": (Margin(), *plain, False),
        "patience": (Patience(), *plain, False),
        "learned scorer": (fit_scorer(held_out), *plain, False),
    }


def accuracy_within(rule: Rule, held_out: Outputs, test: Outputs, budget: float, per_exit: bool) -> float:
    """Accuracy on `test` with the threshold that is best within `budget` on `held_out`; NaN if none is affordable."""
    try:
        chosen = rule_within_budget(rule, held_out, budget, per_exit)
    except UserError:
        return torch.nan
    return (decide(chosen, test).predictions == test.targets).double().mean().item()


def held_out_table(held_out: Outputs, test: Outputs, budgets: Sequence[float] = BUDGETS) -> Table:
    """Accuracy on all test samples within budgets that were kept on held-out ones, mean EEFP and ECE, in per cent."""
    table = Table(title="thresholds and calibration fitted to held-out training samples; accuracy on all test samples")
    table.add_column("")
    for budget in budgets:
        table.add_column(f"at {percent(budget, 0)} %", justify="right")
    for name in ("mean EEFP", "mean ECE"):
        table.add_column(name, justify="right")
    for name, (rule, fitted, tested, per_exit) in candidates(held_out, test).items():
        values = [accuracy_within(rule, fitted, tested, budget, per_exit) for budget in budgets]
        ranking = mean_defined(eefp(tested, rule))
        errors = calibration_errors(tested)
        last = ["–" if ranking is None else f"{ranking:.3f}", percent(sum(errors) / len(errors))]
        table.add_row(name, *map(percent, values), *last)
    return table
