"""Tables of what is fitted to logits after training, on the test samples: thresholds, calibration, corrections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from cl_ac.errors import UserError
from cl_ac.evaluation import Outputs, ac_accuracy, average, exit_accuracy
from cl_ac.exits.calibration import (
    fit_scorer,
    fit_temperature,
    fit_vector_scaling,
    with_temperature,
    with_vector_scaling,
)
from cl_ac.exits.curves import BUDGETS, average_curve, rule_within_budget, task_curves
from cl_ac.exits.quality import calibration_errors, eefp, mean_defined
from cl_ac.exits.rules import Confidence, Entropy, ExitRule, Margin, Patience, decide
from cl_ac.recording.summary import percent
from cl_ac.report.exits import budget_table
from cl_ac.serving.held_out import Correction
from cl_ac.watching.stability import answer_text, exit_names


def correction_tables(correction: Correction, held_out: Outputs | None = None) -> list[Table]:
    """Accuracy within budgets and area, without and with TLC, and the accuracy of each exit.

    Args:
        held_out: outputs on held-out samples, which say whether to apply it.
    """
    kinds = {"without": correction.before, "with TLC": correction.after}
    curves = {}
    for name, outputs in kinds.items():
        curves[f"{name}, mean over tasks"] = average_curve(task_curves(outputs))
        curves[f"{name}, weighted by classes"] = average_curve(task_curves(outputs), outputs.tested_classes)
    budgets = budget_table("task-wise logits correction (TLC), confidence rule, test samples", curves)
    added = f"{correction.slope:.3g} for each later task and {correction.offset:.3g} for all but the last"
    found = advice(correction, held_out)
    budgets.caption = f"TLC, fitted to training samples of the last task, adds to a class's logit {added}; {found}"
    exits = Table(title="accuracy of each exit, mean over tasks, %")
    exits.add_column("")
    for name in exit_names(len(correction.before.logits)):
        exits.add_column(answer_text(name), justify="right")
    for name, outputs in kinds.items():
        exits.add_row(name, *map(percent, average(exit_accuracy(outputs)).tolist()))
    return [budgets, exits]


def advice(correction: Correction, held_out: Outputs | None) -> str:
    """Whether TLC is worth applying: what it does to held-out samples, never to test samples."""
    if held_out is None:
        return "the run held no samples out (benchmark.validation), so nothing tells whether to apply it"
    gain = _gain(correction, held_out)
    worth = "apply it" if gain > 0 else "leave it"
    return f"on held-out samples the most confident exit's accuracy changes by {100 * gain:+.1f} points: {worth}"


def _gain(correction: Correction, held_out: Outputs) -> float:
    before, after = (average(ac_accuracy(outputs)).item() for outputs in (held_out, correction.of(held_out)))
    return after - before


def candidates(held_out: Outputs, test: Outputs) -> dict[str, tuple[ExitRule, Outputs, Outputs, bool]]:
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


def accuracy_within(rule: ExitRule, held_out: Outputs, test: Outputs, budget: float, per_exit: bool) -> float:
    """Accuracy on `test` with the threshold that is best within `budget` on `held_out`; NaN if none is affordable."""
    try:
        chosen = rule_within_budget(rule, held_out, budget, per_exit)
    except UserError:
        return torch.nan
    return (decide(chosen, test).predictions == test.targets).double().mean().item()


@dataclass(frozen=True)
class FittedRule:
    """What a rule comes to on all test samples; accuracies in [0, 1].

    Args:
        at: accuracy by the budget that its threshold kept on held-out samples; NaN where none is affordable.
        mean_eefp, mean_ece: over exits; EEFP is None where it is undefined.
    """

    at: dict[float, float]
    mean_eefp: float | None
    mean_ece: float


def fitted_rules(held_out: Outputs, test: Outputs, budgets: Sequence[float] = BUDGETS) -> dict[str, FittedRule]:
    """All `candidates`, by name."""
    found = {}
    for name, (rule, fitted, tested, per_exit) in candidates(held_out, test).items():
        at = {budget: accuracy_within(rule, fitted, tested, budget, per_exit) for budget in budgets}
        errors = calibration_errors(tested)
        found[name] = FittedRule(at, mean_defined(eefp(tested, rule)), sum(errors) / len(errors))
    return found


def held_out_table(rules: Mapping[str, FittedRule]) -> Table:
    """Accuracy within budgets, mean EEFP and ECE, in per cent."""
    table = Table(
        title="thresholds and calibration fitted to held-out training samples; accuracy on all test samples, %"
    )
    table.add_column("")
    for budget in next(iter(rules.values())).at:
        table.add_column(f"{percent(budget, 0)}\N{NO-BREAK SPACE}%", justify="right")
    for name in ("mean EEFP", "mean ECE"):
        table.add_column(name, justify="right")
    for name, rule in rules.items():
        ranking = "–" if rule.mean_eefp is None else f"{rule.mean_eefp:.3f}"
        table.add_row(name, *map(percent, rule.at.values()), ranking, percent(rule.mean_ece))
    table.caption = "temperature and vector scaling make confidences honest first; the scorer learns whom to let go"
    return table
