"""What a comparison of runs shows: sections of tables and figures, as values that a page or files are made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.evaluation import average
from cl_ac.exits.curves import cost_at_accuracy
from cl_ac.recording.figures import (
    CostLine,
    Line,
    accuracy_matrix_figure,
    cost_accuracy_figure,
    exit_accuracy_map,
    line_figure,
)
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.comparison import Comparison, Group
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.report.sparse_networks import SPARSE_TEXT, sparse_table
from cl_ac.report.training_cost import TRAINING_TEXT, training_table
from cl_ac.report.watched_figures import gap_overlay, old_tasks_figure, task_accuracy_figure
from cl_ac.watching.drift import Drift
from cl_ac.watching.stability import accuracy_area, answer_text, exit_names, summarise

# More lines than this in one panel cannot be told apart.
MOST_LINES = 8


@dataclass(frozen=True)
class Section:
    """One question about some runs.

    Args:
        title: the question in a few words.
        text: what is shown and how it was computed.
        tables: to read.
        figures: by file name.
    """

    title: str
    text: str
    tables: list[ResultTable] = field(default_factory=list)
    figures: Mapping[str, Figure] = field(default_factory=dict)


def sections(comparison: Comparison) -> Iterator[Section]:
    """All sections of a comparison that its runs have data for."""
    yield Section(
        "Summary",
        "Class-incremental accuracy in per cent after the last task, mean over tasks; runs with ACs answer with their "
        "most confident exit. Mean ± sample deviation over seeds. Weighted: each class counts the same, not each "
        "task, as in the published average incremental accuracy. Cost at equal accuracy: the smallest mean cost, "
        "in per cent of that of the network without ACs, at which the confidence rule is as accurate over all samples "
        "as the same approach without ACs.",
        [summary(comparison)],
    )
    if comparison.differences:
        yield Section("What differs", "Settings that are not the same in all runs.", [differences(comparison)])
    if any(group.tasks > 1 for group in comparison.groups):
        yield Section("Accuracy and forgetting over tasks", LINES_TEXT, [], dict(curve_figures(comparison)))
    yield Section(
        "Accuracy matrices",
        "Rows: after each task; columns: on each task. Per cent, mean over seeds.",
        [task_accuracies(comparison)],
        {
            f"accuracy_matrix-{group.label}": accuracy_matrix_figure(group.answers.mean(0), group.label)
            for group in comparison.groups
        },
    )
    yield Section("Known task", KNOWN_TEXT, [known_task(comparison)])
    if (of_streams := stream_table(comparison)) is not None:
        yield Section("Stream", STREAM_TEXT, [of_streams])
    yield Section(
        "Cost after each task",
        "Multiply-accumulates of one image through the whole network, ACs included, without element-wise work, and its "
        "parameters, in millions. Methods that add branches or networks pay for them here.",
        [task_costs(comparison)],
    )
    with_acs = [group for group in comparison.groups if group.has_acs]
    if with_acs:
        yield Section(
            "Exits", "Accuracy of each exit on each task after the last one, mean over seeds.",
            [exit_accuracies(with_acs)], {f"exits-{group.label}": _exit_map(group) for group in with_acs},
        )  # fmt: skip
        yield Section(
            "Cost and accuracy",
            "Accuracy over all samples as the threshold of the confidence rule moves, mean over seeds. A dashed line "
            "is a network without ACs. Thresholds are chosen on the test samples, as in the literature.",
            [], dict(cost_figures(comparison)),
        )  # fmt: skip
    if any(group.training_macs for group in comparison.groups):
        yield Section("Cost of training", TRAINING_TEXT, [training_table(comparison.groups)])
    sparse = [group for group in comparison.groups if group.sparsity]
    if sparse:
        yield Section("Sparse networks", SPARSE_TEXT, [sparse_table(sparse)])
    watched = [group for group in comparison.groups if group.watched]
    if watched:
        yield Section(
            "Stability gap",
            GAP_TEXT,
            [gaps(watched)],
            dict(gap_figures(watched)),
        )
    drifted = [group for group in comparison.groups if group.drifts and group.tasks > 1]
    if drifted:
        yield Section("Drift", DRIFT_TEXT, [drift_table(drifted)], dict(drift_figures(drifted)))


LINES_TEXT = (
    "After each task, mean over the tasks seen so far (accuracy) and over the earlier ones (forgetting: how far each "
    "is below its best). Bands are one sample deviation over seeds; dashed lines are networks without ACs."
)
KNOWN_TEXT = (
    "Accuracy after the last task where each image comes with the task that it belongs to and only the classes of that "
    "task are open to choice, on each task and, mean over tasks, of each exit. Of the same outputs: nothing is trained "
    "for it. In a domain all classes are open."
)
STREAM_TEXT = (
    "What the way in which data arrive asks for, of the final exit. Forward transfer (Lopez-Paz & Ranzato, 2017): how "
    "much better a domain is answered just before it is learned than by the network as the run began. Missing classes: "
    "accuracy on the classes seen that the last task did not bring again. Head, medium, tail: thirds of the classes by "
    "their number of training samples. Wrong exemplars: share of the memory whose labels are wrong."
)
GAP_TEXT = (
    "Accuracy while later tasks are learned; the figures show the first seed, with dotted lines where tasks begin, and "
    "first all runs over each other, every task as wide as the others, by the most confident exit or the only one. "
    "Gap: accuracy before a task minus the lowest since, mean over earlier tasks and then over tasks. Min-ACC and "
    "WC-ACC as De Lange et al. (2023) define them, over all later tasks. Settling: steps until nine tenths of the "
    "accuracy at the task's end are reached for good. Recency bias: share of earlier tasks' samples that are taken for "
    "the newest task. A_AUC (Koh et al., 2022): mean over all steps of the accuracy on the classes seen by then."
)
DRIFT_TEXT = (
    "How similar the features of earlier tasks' images are to what they were when their task had just been learned: "
    "linear CKA (Kornblith et al., 2019) in per cent, 100 for the same features up to rotation and scale; mean over "
    "earlier tasks and seeds. Newest rows: mean norm of the newest task's classifier rows relative to that of the "
    "earlier tasks' rows, after the last task; above 100 the classifier favours new classes."
)


def summary(comparison: Comparison) -> ResultTable:
    """One row for each group."""
    columns = ["run", "seeds", "tasks", "accuracy", "weighted", "incremental", "forgetting", "known task"]
    columns.append("incremental, weighted")
    names = ["accuracy", "accuracy_weighted", "incremental", "forgetting", "task_incremental", "incremental_weighted"]
    # Without a pair of runs with and without ACs there is nothing to be equal to.
    compared = any(comparison.without_acs(group) is not None for group in comparison.groups)
    rows: list[list[Cell]] = []
    for group in comparison.groups:
        shares = [Spread(tuple(getattr(each, name) for each in group.summaries)) for name in names]
        cost = [_cost_at_equal_accuracy(comparison, group)] if compared else []
        rows.append([group.label, len(group.runs), group.tasks, *shares, *cost])
    cost_column = ["cost at equal accuracy"] if compared else []
    return ResultTable("summary", "accuracy after the last task, %", [*columns, *cost_column], rows)


def _cost_at_equal_accuracy(comparison: Comparison, group: Group) -> Cell:
    plain = comparison.without_acs(group)
    if plain is None:
        return ""
    reached = [cost_at_accuracy(curve, plain.all_samples.mean().item()) for curve in group.curves]
    found = tuple(cost for cost in reached if cost is not None)
    if len(found) == len(reached):
        return Spread(found)
    return f"not reached by {len(reached) - len(found)} of {len(reached)}"


def differences(comparison: Comparison) -> ResultTable:
    """One row for each group; the options of an approach share a column, since few approaches share an option."""
    names = comparison.differences
    common = [name for name in names if not name.startswith("approach.")]
    columns = ["run", *common, *(["options of the approach"] if len(common) < len(names) else [])]
    rows = []
    for group in comparison.groups:
        row: list[Cell] = [group.label, *(_plain(group.settings.get(name)) for name in common)]
        if len(common) < len(names):
            own = [name for name in names if name.startswith("approach.") and name in group.settings]
            row.append(", ".join(f"{name.removeprefix('approach.')} {group.settings[name]}" for name in own))
        rows.append(row)
    return ResultTable("settings", "settings that differ", columns, rows)


GAP_COLUMNS = {
    "gap": "gap",
    "relative_gap": "relative gap",
    "minimum_accuracy_since_learned": "min-ACC",
    "worst_case_accuracy_since_learned": "WC-ACC",
    "anytime_accuracy": "anytime accuracy",
    "recency_bias": "recency bias",
    "settling_steps": "settling (steps)",
}


def gaps(groups: Sequence[Group]) -> ResultTable:
    """What old tasks go through, one row for each answer of each group; of many groups the main answers only."""
    rows: list[list[Cell]] = []
    for group in groups:
        watched = [(run.watched_all(), run.records[-1].tested_classes) for run in group.runs]
        runs = [summarise(tasks) for tasks, _ in watched if tasks]
        areas = [accuracy_area(tasks, classes) for tasks, classes in watched if tasks]
        for place, answer in enumerate(runs[0].answers):
            if len(groups) > MOST_LINES and answer not in ("final", "most_confident", "nearest_mean/final"):
                continue
            taken = {name: tuple(getattr(run, name)[place].item() for run in runs) for name in GAP_COLUMNS}
            cells = [Spread(values, name != "settling_steps") for name, values in taken.items()]
            area = Spread(tuple(each[place].item() for each in areas))
            rows.append([group.label, answer_text(answer), *cells, area])
    columns = ["run", "answer", *GAP_COLUMNS.values(), "A_AUC"]
    return ResultTable("stability_gap", "old tasks while new ones are learned, % but for steps", columns, rows)


def drift_table(groups: Sequence[Group]) -> ResultTable:
    """One row for each exit of each group, after the last task."""
    rows: list[list[Cell]] = []
    for group in groups:
        kept = [_kept_features(drift)[-1] for drift in group.drifts]
        newest = [drift.weights[-1, :, -1] / drift.weights[-1, :, :-1].mean(-1) for drift in group.drifts]
        columns = [torch.stack(values, 1).tolist() for values in (kept, newest)]
        for name, *shares in zip(exit_labels(group.last.shape[-1]), *columns, strict=True):
            rows.append([group.label, name, *(Spread(tuple(share)) for share in shares)])
    return ResultTable("drift", "after the last task, %", ["run", "exit", "features (CKA)", "newest rows"], rows)


def exit_labels(exits: int) -> list[str]:
    """`exit 0` … and `final`."""
    return [answer_text(name) for name in exit_names(exits)]


def drift_figures(groups: Sequence[Group]) -> Iterator[tuple[str, Figure]]:
    """What each exit keeps of the features of earlier tasks, after each task but the first."""
    for group in groups:
        kept = torch.stack([_kept_features(drift) for drift in group.drifts])
        names = exit_labels(kept.shape[-1])
        tasks = range(2, 2 + kept.shape[1])
        lines = [Line(name, tasks, kept[..., place], place) for place, name in enumerate(names)]
        figure = line_figure(lines, f"{group.label}: features of earlier tasks", "tasks learned", "CKA (%)")
        figure.axes[0].set_ylim(-2, 102)  # the same for all groups
        yield _file_name("drift", group.label), figure


def _kept_features(drift: Drift) -> Tensor:
    """CKA with the features just learned, mean over earlier tasks, after each task but the first [T − 1, E]."""
    return torch.stack([drift.since_learned[task, :task].mean(0) for task in range(1, len(drift.since_learned))])


def _plain(value: Cell | None) -> Cell:
    return "" if value is None else str(value) if isinstance(value, bool) else value


def task_accuracies(comparison: Comparison) -> ResultTable:
    """Accuracy on each task after the last one."""
    tasks = max(group.tasks for group in comparison.groups)
    columns = ["run", *(f"task {task + 1}" for task in range(tasks))]
    rows = [[group.label, *_shares(group.answers[:, -1], tasks)] for group in comparison.groups]
    return ResultTable("accuracy_per_task", "accuracy on each task after the last one, %", columns, rows)


def known_task(comparison: Comparison) -> ResultTable:
    """Accuracy with a known task after the last one: on each task, their mean, and of each exit."""
    tasks = max(group.tasks for group in comparison.groups)
    deepest = max(group.last.shape[-1] for group in comparison.groups)
    rows = []
    for group in comparison.groups:
        answers, exits = (torch.stack(values) for values in zip(*map(_known_at_the_end, group.runs), strict=True))
        *early, final = _shares(average(exits.movedim(1, 0)))
        mean = Spread(tuple(average(answers.T).tolist()))
        padded = [*early, *[""] * (deepest - 1 - len(early)), final]
        rows.append([group.label, *_shares(answers, tasks), mean, *padded])
    columns = ["run", *(f"task {task + 1}" for task in range(tasks)), "mean", *exit_labels(deepest)]
    return ResultTable("accuracy_known_task", "accuracy with a known task after the last one, %", columns, rows)


def _known_at_the_end(run: RunDirectory) -> tuple[Tensor, Tensor]:
    """Accuracy of the most confident exit [T], and of every exit [T, E]."""
    return run.ac_accuracies(task_incremental=True)[-1], run.accuracies(task_incremental=True)[-1]


STREAM_COLUMNS = {
    "forward_transfer": "forward transfer",
    "missing_classes": "missing classes",
    "head_classes": "head",
    "medium_classes": "medium",
    "tail_classes": "tail",
    "corrupted_exemplars": "wrong exemplars",
}


def stream_table(comparison: Comparison) -> ResultTable | None:
    """What streams are asked for, one row for each group; None if no run's stream is asked for anything."""
    rows: list[list[Cell]] = []
    found = {name: [[getattr(each, name) for each in group.summaries] for group in comparison.groups]
             for name in STREAM_COLUMNS}  # fmt: skip
    asked = {name: groups for name, groups in found.items() if any(None not in values for values in groups)}
    for place, group in enumerate(comparison.groups):
        cells = [groups[place] for groups in asked.values()]
        rows.append([group.label, *("" if None in values else Spread(tuple(values)) for values in cells)])
    columns = ["run", *(STREAM_COLUMNS[name] for name in asked)]
    return ResultTable("streams", "after the last task, %", columns, rows) if asked else None


def task_costs(comparison: Comparison) -> ResultTable:
    """Two rows for each group, or one where parameters were not counted: what the network costs after each task."""
    tasks = max(group.tasks for group in comparison.groups)
    rows: list[list[Cell]] = []
    for group in comparison.groups:
        counts: Mapping[str, Sequence[float | None]] = {
            "MACs": [None if cost is None else cost.exits[-1] for cost in group.costs],
            "parameters": [None if cost is None else cost.parameters for cost in group.costs],
        }
        for name, values in counts.items():
            if any(value is not None for value in values):
                cells: list[Cell] = ["" if value is None else value / 1e6 for value in values]
                rows.append([group.label, name, *cells, *[""] * (tasks - len(cells))])
    columns = ["run", "of", *(f"task {task + 1}" for task in range(tasks))]
    return ResultTable("cost_per_task", "after each task, millions", columns, rows)


def exit_accuracies(groups: Sequence[Group]) -> ResultTable:
    """Mean accuracy of each exit over tasks, after the last one; final classifiers are below each other."""
    deepest = max(group.last.shape[-1] for group in groups)
    rows = []
    for group in groups:
        *early, final = _shares(group.last.mean(1))
        rows.append([group.label, *early, *[""] * (deepest - 1 - len(early)), final])
    return ResultTable(
        "accuracy_per_exit", "accuracy of each exit, mean over tasks, %", ["run", *exit_labels(deepest)], rows
    )


def _shares(values: Tensor, width: int = 0) -> list[Cell]:
    """The columns of [S, K], filled up to `width` with nothing."""
    shares = [Spread(tuple(column)) for column in values.T.tolist()]
    return [*shares, *[""] * (width - len(shares))]


def _exit_map(group: Group) -> Figure:
    return exit_accuracy_map(group.last.mean(0).T, exit_labels(group.last.shape[-1]), group.label)


Panel = tuple[str, list[tuple[Group, int | None]]]


def panels(comparison: Comparison) -> Iterator[Panel]:
    """What is drawn together: all groups if they are few, else a panel for each family with the others in grey.

    Yields:
        The panel's name, empty if there is only one, and its groups with the place of each family's colour; None for
        a group in the background.
    """
    families = comparison.families
    if len(comparison.groups) <= MOST_LINES:
        yield "", [(group, place) for place, groups in enumerate(families.values()) for group in groups]
        return
    for name, own in families.items():
        others = [(group, None) for group in comparison.groups if group.family != name]
        yield name, [*others, *((group, place) for place, group in enumerate(own))]


def curve_figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Average accuracy and forgetting after each task."""
    kinds: dict[str, tuple[Callable[[Group], Tensor], int]] = {
        "average accuracy": (lambda group: group.average_accuracy, 1),
        "forgetting": (lambda group: group.forgetting, 2),
    }
    for kind, (values, first) in kinds.items():
        for name, members in panels(comparison):
            lines = [
                Line(group.label, range(first, first + y.shape[1]), y, colour, not group.has_acs)
                for group, colour in members
                if (y := values(group)).shape[1]
            ]
            title = f"{kind}, {name}" if name else kind
            yield _file_name(kind, name), line_figure(lines, title, "tasks learned", f"{kind} (%)")


def cost_figures(comparison: Comparison) -> Iterator[tuple[str, Figure]]:
    """Accuracy against cost; panels without ACs are left out."""
    for name, members in panels(comparison):
        drawn = [(group, place) for group, place in members if place is not None]
        if any(group.has_acs for group, _ in drawn):
            lines = [CostLine(group.label, group.curves, group.all_samples, place) for group, place in drawn]
            yield _file_name("cost_accuracy", name), cost_accuracy_figure(lines, name)


def gap_figures(groups: Sequence[Group]) -> Iterator[tuple[str, Figure]]:
    """All groups over each other; of each, every task over training, and earlier tasks by each exit; of first seeds."""
    learning = [group for group in groups if len(group.watched[0]) > 1]
    for number, start in enumerate(range(0, len(learning), MOST_LINES) if len(learning) > 1 else (), start=1):
        some = learning[start : start + MOST_LINES]
        yield _file_name("gaps", str(number)), gap_overlay({group.label: group.watched[0] for group in some})
    for group in groups:
        first = group.watched[0]
        yield _file_name("task_accuracy", group.label), task_accuracy_figure(first, f"{group.label}: each task")
        if len(first) > 1:
            yield _file_name("old_tasks", group.label), old_tasks_figure(first, f"{group.label}: mean of earlier tasks")


def _file_name(kind: str, name: str) -> str:
    return "-".join(part for part in (kind.replace(" ", "_"), name) if part)
