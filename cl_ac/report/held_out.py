"""What is fitted to logits after training, on the test samples: thresholds, calibration, scores, task corrections.

Thresholds, calibration and scores are fitted to held-out training samples of all tasks. Most methods could not keep
them: what is fitted to them with many parameters, vector scaling above all, also takes back the preference for new
classes, and is an upper bound for such methods. Task-wise logits correction needs the last task's training data only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.table import Table
from torch import Tensor

from cl_ac.calibration import (
    fit_scorer,
    fit_temperature,
    fit_tlc,
    fit_vector_scaling,
    rescale,
    task_shift,
    with_temperature,
    with_vector_scaling,
)
from cl_ac.early_exit import BUDGETS, average_curve, rule_within_budget, task_curves
from cl_ac.errors import UserError
from cl_ac.evaluation import Outputs, ac_accuracy, average, exit_accuracy
from cl_ac.exit_quality import calibration_errors, eefp, mean_defined
from cl_ac.exit_rules import Confidence, Entropy, Margin, Patience, Rule, decide
from cl_ac.network import Cost
from cl_ac.report.exits import budget_table
from cl_ac.report.tables import percent
from cl_ac.rundir import RunDirectory
from cl_ac.samples import Samples, concatenate
from cl_ac.serving import Finished, finished
from cl_ac.stability import exit_names
from cl_ac.training import Trainer


def held_out_samples(run: Finished) -> tuple[Samples, Tensor] | None:
    """The held-out training samples of all tasks learned, and the task index of each; None if the run held none out."""
    tasks = list(run.last_task.history())
    parts = [task.validation for task in tasks]
    if any(not len(part) or part is task.test for part, task in zip(parts, tasks, strict=True)):
        return None
    indices = torch.cat([torch.full((len(part),), index) for index, part in enumerate(parts)])
    return concatenate(*parts), indices


def held_out_outputs(run: Finished, trainer: Trainer, cost: Cost) -> Outputs | None:
    """The outputs on `held_out_samples`; None if there are none."""
    held_out = held_out_samples(run)
    if held_out is None:
        return None
    samples, indices = held_out
    logits = trainer.predict(run.network, samples, partial(run.objects.approach.answer, run.network))
    return Outputs(logits, samples.targets, indices, tuple(run.network.sizes), cost)


def held_out_accuracy(directory: RunDirectory) -> float | None:
    """The most confident exit's accuracy on the held-out training samples of a finished run, mean over tasks.

    It is what settings are chosen by without the test samples; None if the run held none out or has no checkpoint.
    """
    if not directory.checkpoint_path.exists():
        return None
    run = finished(directory, directory.config["device"])
    outputs = held_out_outputs(run, run.trainer, directory.outputs(directory.records[-1].task).cost)
    return None if outputs is None else average(ac_accuracy(outputs)).item()


@dataclass(frozen=True)
class Correction:
    """Task-wise logits correction (TLC), fitted to the training samples of the last task.

    Args:
        slope: what is added to the logits of a task's classes for each task that came after it.
        offset: what is added besides to those of all tasks but the last.
        before: the outputs on the test samples.
        after: the same, corrected.
    """

    slope: float
    offset: float
    before: Outputs
    after: Outputs


def task_correction(run: Finished, trainer: Trainer, test: Outputs) -> Correction:
    """TLC of the outputs `test`; after a single task it is nothing."""
    samples = run.objects.benchmark[len(test.sizes) - 1].train
    logits = trainer.predict(run.network, samples, partial(run.objects.approach.answer, run.network))
    slope, offset = fit_tlc(logits, test.sizes)
    return Correction(slope, offset, test, rescale(test, torch.ones(()), task_shift(test.sizes, slope, offset)))


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
