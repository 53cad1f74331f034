"""The tables of a comparison of runs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cl_ac.evaluation import average
from cl_ac.exits.curves import cost_at_accuracy
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.comparison import Comparison, Group
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.watching.drift import Drift
from cl_ac.watching.stability import accuracy_area, answer_text, exit_names, summarise

# More lines than this in one panel cannot be told apart.
MOST_LINES = 8


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
        kept = [kept_features(drift)[-1] for drift in group.drifts]
        newest = [drift.weights[-1, :, -1] / drift.weights[-1, :, :-1].nanmean(-1) for drift in group.drifts]
        columns = [torch.stack(values, 1).tolist() for values in (kept, newest)]
        for name, *shares in zip(exit_labels(group.last.shape[-1]), *columns, strict=True):
            rows.append([group.label, name, *(Spread(tuple(share)) for share in shares)])
    return ResultTable("drift", "after the last task, %", ["run", "exit", "features (CKA)", "newest rows"], rows)


def exit_labels(exits: int) -> list[str]:
    """`exit 0` … and `final`."""
    return [answer_text(name) for name in exit_names(exits)]


def kept_features(drift: Drift) -> Tensor:
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
        *early, final = _shares(average(group.last.movedim(1, 0)))
        rows.append([group.label, *early, *[""] * (deepest - 1 - len(early)), final])
    return ResultTable(
        "accuracy_per_exit", "accuracy of each exit, mean over tasks, %", ["run", *exit_labels(deepest)], rows
    )


def _shares(values: Tensor, width: int = 0) -> list[Cell]:
    """The columns of [S, K], filled up to `width` with nothing."""
    shares = [Spread(tuple(column)) for column in values.T.tolist()]
    return [*shares, *[""] * (width - len(shares))]
