"""What the exits of a finished run are worth: tables, figures and TensorBoard entries from its stored outputs.

Everything is computed after the last task; curves of the confidence rule also after each task, on each task seen and
averaged. Thresholds of the curves are chosen on the test samples themselves, as in the literature; `exit_timing`
chooses them on held-out ones.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import Outputs, average, exit_accuracy
from cl_ac.exits.curves import (
    BUDGETS,
    PAPER_THRESHOLDS,
    Curve,
    accuracy_at_budgets,
    area,
    average_curve,
    oracle_curve,
    task_curves,
)
from cl_ac.exits.quality import Quality, groups, quality
from cl_ac.exits.rules import Confidence, Entropy, ExitRule, Margin, Patience
from cl_ac.recording.files import storing, write_atomically
from cl_ac.recording.records import unknown_as
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.report.exit_figures import exit_accuracy_figure, exit_histogram_figure, reliability_figure, rules_figure
from cl_ac.report.tables import KNOWN_TASK
from cl_ac.watching.stability import answer_text, exit_names

RULES: dict[str, ExitRule] = {
    "confidence": Confidence(),
    "confidence, last exit answers": Confidence(fallback="last"),
    "entropy": Entropy(),
    "margin": Margin(),
    "patience": Patience(),
}
EVENTS_SUFFIX = ".exits"


@dataclass(frozen=True)
class AfterTask:
    """The curves of the confidence rule after one task, all at the same thresholds.

    Args:
        task: its index.
        classes: how many each task seen is tested on.
        per_task: the curve on each task seen.
    """

    task: int
    classes: list[int]
    per_task: list[Curve]

    @property
    def mean(self) -> Curve:
        """Their mean."""
        return average_curve(self.per_task)

    @property
    def weighted(self) -> Curve:
        """Their mean, tasks weighted by their classes."""
        return average_curve(self.per_task, self.classes)

    @property
    def named(self) -> dict[str, Curve]:
        """Every curve by name: both averages, and those of the tasks."""
        tasks = {f"task_{task}": curve for task, curve in enumerate(self.per_task)}
        return {"mean": self.mean, "weighted": self.weighted, **tasks}


@dataclass(frozen=True)
class Analysis:
    """What a run's exits come to; accuracies in [0, 1], costs relative to the network without ACs.

    Args:
        outputs: after the last task.
        curves: of each rule, class-incremental, mean over tasks.
        curves_weighted: the same, tasks weighted by their classes.
        curves_task_incremental: as `curves` with the task known.
        after_task: the curves of the confidence rule after each task whose outputs were kept.
        quality: of all samples, of each task, and of old and new classes.
    """

    outputs: Outputs
    curves: dict[str, Curve]
    curves_weighted: dict[str, Curve]
    curves_task_incremental: dict[str, Curve]
    after_task: list[AfterTask]
    quality: dict[str, Quality]


def analyse(directory: RunDirectory) -> Analysis:
    """Everything that the stored outputs of a run say of its exits.

    Raises:
        ConfigurationError: if no task of the run is finished.
    """
    records = directory.records
    if not records:
        raise ConfigurationError(f"'{directory.path}' holds no finished task")
    outputs = directory.outputs(records[-1].task)
    curves, weighted = averaged_curves(outputs)
    stored = {task: directory.outputs(task) for task in directory.tasks_with_outputs()}
    after = [AfterTask(task, each.tested_classes, task_curves(each)) for task, each in stored.items()]
    parts = {name: quality(part) for name, part in groups(outputs).items()}
    known = averaged_curves(outputs.task_incremental)[0]
    return Analysis(outputs, curves, weighted, known, after, parts)


def sentence_of_missing(directory: RunDirectory) -> str:
    """What is left out, since outputs are missing; empty if none are."""
    finished, kept = len(directory.records), len(directory.tasks_with_outputs())
    told = f"outputs/ holds those after {kept} of {finished} tasks (keep_outputs); curves after the others are left out"
    return told if kept < finished else ""


def averaged_curves(outputs: Outputs) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """The curve of each rule averaged over tasks, unweighted and weighted by classes; on the paper's grid as well."""
    choices: dict[str, tuple[ExitRule, Tensor | None]] = {name: (rule, None) for name, rule in RULES.items()}
    choices["confidence, grid of the AC paper"] = (Confidence(), PAPER_THRESHOLDS)
    curves = {name: task_curves(outputs, rule, thresholds) for name, (rule, thresholds) in choices.items()}
    plain = {name: average_curve(each) for name, each in curves.items()}
    return plain, {name: average_curve(each, outputs.tested_classes) for name, each in curves.items()}


BUDGET_CAPTION = (
    "25 %: the best accuracy at a mean cost of at most 25 % of the network without ACs; best: at any cost; area: "
    "under the curve of accuracy over cost"
)
EXIT_CAPTION = (
    "EEFP (early-exit failure prediction): how well the exit's confidence tells samples that should leave here, 0.5 "
    "is a guess; AUROC: how well it tells right from wrong answers\n"
    "ECE: calibration error; hindsight: share of its errors that an earlier exit gets right; alone right: of the "
    "samples that the final exit gets wrong and ACs do not, those that this AC alone gets right"
)
ONE_EXIT = (
    "The run has no ACs, so its network has one exit, which answers {accuracy} % of all test samples rightly (mean "
    "over tasks {mean} %); `cl-ac attach` trains ACs for it."
)


def sentence_of_one_exit(analysis: Analysis) -> str:
    """What there is to say of a run without ACs."""
    correct = analysis.outputs.correct.double().mean().item()
    return ONE_EXIT.format(accuracy=percent(correct), mean=percent(average(exit_accuracy(analysis.outputs)).item()))


def main_tables(analysis: Analysis) -> list[Table]:
    """What fits on one screen: the rules within budgets, and each exit."""
    title = "accuracy within a budget, mean over tasks; thresholds chosen on the test samples"
    shown = ("confidence", "entropy", "margin", "patience")
    rules = budget_table(title, {name: analysis.curves[name] for name in shown})
    rules.caption = BUDGET_CAPTION
    return [rules, exit_table(analysis)]


def budget_table(title: str, curves: Mapping[str, Curve]) -> Table:
    """Accuracy within each budget, and the area under each curve, in per cent."""
    table = Table(title=f"{title}, %")
    table.add_column("")
    for budget in BUDGETS:
        table.add_column(f"{percent(budget, 0)}\N{NO-BREAK SPACE}%", justify="right")
    table.add_column("best", justify="right")
    table.add_column("area", justify="right")
    for name, curve in curves.items():
        values = [*accuracy_at_budgets(curve), curve.accuracy.max().item(), area(curve)]
        table.add_row(name, *map(percent, values))
    return table


def exit_table(analysis: Analysis) -> Table:
    """The quality of each exit over all samples."""
    table = Table(title="each exit, all samples (EEFP and AUROC from 0 to 1, Brier score from 0 to 2, the rest in %)")
    table.caption = EXIT_CAPTION
    for name in ("exit", "cost", "accuracy", "EEFP", "AUROC", "ECE", "Brier", "hindsight", "alone right"):
        table.add_column(name, justify="right")
    found, alone = analysis.quality["all"], analysis.quality["all"].overthinking.unique
    for index, name in enumerate(exit_names(len(found.accuracy))):
        table.add_row(
            answer_text(name),
            percent(analysis.outputs.cost.relative[index]),
            percent(found.accuracy[index]),
            number(found.eefp[index]),
            number(found.failure_prediction[index]),
            percent(found.ece[index]),
            number(found.brier[index]),
            _percent(found.hindsight[index]),
            _percent(alone[index]) if index < len(alone) else "–",
        )
    return table


def group_table(analysis: Analysis) -> Table:
    """What differs between tasks, and between old and new classes."""
    table = Table(title="by task and by age of the class, % but for EEFP")
    table.caption = (
        "old: classes of earlier tasks, new: of the last one; overthinking: samples that an AC gets right and the "
        "final exit wrong, relative: as a share of those that the final exit gets right"
    )
    for name in (
        "samples",
        "accuracy, final",
        "mean EEFP",
        "ECE, first exit",
        "ECE, final",
        "overthinking",
        "relative",
    ):
        table.add_column(name, justify="left" if name == "samples" else "right")
    for name, found in analysis.quality.items():
        over = found.overthinking
        table.add_row(
            name,
            percent(found.accuracy[-1]),
            number(found.mean_eefp),
            percent(found.ece[0]),
            percent(found.ece[-1]),
            percent(over.share),
            _percent(over.relative),
        )
    return table


def number(value: float | None) -> str:
    """Two decimals, or a dash for what is undefined."""
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)


def further_tables(analysis: Analysis) -> list[Table]:
    """All other tables of an analysis."""
    after = {f"after task {each.task + 1}": each for each in analysis.after_task}
    on = {
        f"{name}, on task {task + 1}": curve for name, each in after.items() for task, curve in enumerate(each.per_task)
    }
    return [
        budget_table("accuracy within a budget, mean over tasks, all rules", analysis.curves),
        budget_table("accuracy within a budget, mean over tasks weighted by classes", analysis.curves_weighted),
        budget_table(f"accuracy within a budget, mean over tasks, {KNOWN_TASK}", analysis.curves_task_incremental),
        budget_table("confidence rule, mean over the tasks seen", {name: each.mean for name, each in after.items()}),
        budget_table(
            "confidence rule, mean weighted by classes", {name: each.weighted for name, each in after.items()}
        ),
        budget_table("confidence rule on each task, at the thresholds best for it", on),
        budget_table(
            "an oracle that knows which exit is right, all samples", {"oracle": oracle_curve(analysis.outputs)}
        ),
        group_table(analysis),
    ]


def figures(analysis: Analysis, plain: float | None = None) -> dict[str, Figure]:
    """All figures of an analysis.

    Args:
        plain: mean accuracy over tasks of a run without ACs, drawn as a line.
    """
    outputs = analysis.outputs
    found = {
        "cost_accuracy": rules_figure(analysis.curves, outputs, plain),
        "exit_accuracy": exit_accuracy_figure(exit_accuracy(outputs)),
        "reliability": reliability_figure(outputs),
    }
    for by in ("task", "class"):
        found[f"exits_by_{by}"] = exit_histogram_figure(outputs, analysis.curves["confidence"], by)
    return found


def plain_accuracy(directory: RunDirectory) -> float:
    """Mean accuracy over tasks of a run without ACs, after its last task.

    Raises:
        ConfigurationError: if it has ACs, or no finished task.
    """
    records = directory.records
    if not records or len(records[-1].relative_cost) != 1:
        raise ConfigurationError(f"'{directory.path}' (--plain) must be a finished run without ACs")
    return average(directory.ac_accuracies()[-1]).item()


def write(analysis: Analysis, directory: RunDirectory, plain: float | None = None) -> list[Path]:
    """Writes the figures and all numbers to `exits/` in the run's folder, and TensorBoard entries beside the others."""
    folder = directory.folder("exits")
    drawn = figures(analysis, plain)
    paths = [folder / f"{name}.png" for name in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        with storing(path):
            figure.savefig(path, dpi=150)
    paths.append(folder / "exits.json")
    write_atomically(paths[-1], lambda path: path.write_text(json.dumps(numbers(analysis), indent=1)))
    paths.append(folder / "curves.safetensors")
    write_atomically(paths[-1], lambda path: save_file(curve_points(analysis), path))
    with storing(directory.path):
        _write_events(analysis, directory, drawn)
    return paths


def numbers(analysis: Analysis) -> dict:
    """All numbers of the tables, as plain values; null where one is undefined."""

    def row(curve: Curve) -> dict:
        at = {f"{budget:g}": value for budget, value in _at_budgets(curve).items()}
        return {"at": at, "best": curve.accuracy.max().item(), "area": area(curve)}

    kinds = {
        "mean": analysis.curves,
        "weighted": analysis.curves_weighted,
        "task_incremental": analysis.curves_task_incremental,
    }
    found = {
        "relative_cost": analysis.outputs.cost.relative,
        "rules": {kind: {name: row(curve) for name, curve in curves.items()} for kind, curves in kinds.items()},
        "after_task": [
            {"task": each.task, **{name: row(curve) for name, curve in each.named.items()}}
            for each in analysis.after_task
        ],
        "oracle": row(oracle_curve(analysis.outputs)),
        "quality": {name: asdict(each) for name, each in analysis.quality.items()},
    }
    return unknown_as(found, math.nan, None)


def curve_points(analysis: Analysis) -> dict[str, Tensor]:
    """The curves after each task t, from which both averages follow.

    `after_<t>.thresholds` [K], and of the tasks seen `.accuracy`, `.cost` [t + 1, K] and `.shares` [t + 1, K, E + 1].
    """
    points = {}
    for each in analysis.after_task:
        points[f"after_{each.task}.thresholds"] = each.per_task[0].thresholds
        for name in ("accuracy", "cost", "shares"):
            points[f"after_{each.task}.{name}"] = torch.stack([getattr(curve, name) for curve in each.per_task])
    return points


def _at_budgets(curve: Curve) -> dict[float, float]:
    return dict(zip(BUDGETS, accuracy_at_budgets(curve), strict=True))


def _write_events(analysis: Analysis, directory: RunDirectory, drawn: Mapping[str, Figure]) -> None:
    """Scalars over tasks (step: tasks finished) and the figures; entries of an earlier analysis are replaced."""
    for earlier in directory.path.glob(f"events.out.tfevents.*{EVENTS_SUFFIX}"):
        earlier.unlink()
    with SummaryWriter(str(directory.path), filename_suffix=EVENTS_SUFFIX) as writer:
        for each in analysis.after_task:
            for name, curve in each.named.items():
                at = {f"accuracy_at_{100 * budget:.0f}_percent": value for budget, value in _at_budgets(curve).items()}
                for what, value in {**at, "area": area(curve)}.items():
                    if math.isfinite(value):
                        writer.add_scalar(f"exits/{what}/{name}", value, each.task + 1)
        tasks = analysis.after_task[-1].task + 1
        for name, found in analysis.quality.items():
            if found.mean_eefp is not None:
                writer.add_scalar(f"exits/mean_eefp/{name}", found.mean_eefp, tasks)
            if math.isfinite(found.overthinking.share):
                writer.add_scalar(f"exits/overthinking/{name}", found.overthinking.share, tasks)
        for name, figure in drawn.items():
            writer.add_figure(f"exits/{name}", figure, tasks)
