"""Tables of finished runs, in per cent."""

from collections.abc import Sequence

from rich.table import Table

from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import Summary, percent, reference_accuracy, summarise


def summary_table(directories: Sequence[RunDirectory]) -> Table:
    """One row for each run."""
    reference = reference_accuracy([d for d in directories if d.records])
    table = Table(title="class-incremental accuracy after the last task, %")
    for column in ("run", "accuracy", "incremental", "forgetting", "known task", "per task", "per exit"):
        table.add_column(
            column, overflow="fold", justify="left" if column in ("run", "per task", "per exit") else "right"
        )
    table.add_column("cost at equal accuracy", justify="right")
    for directory in directories:
        summary = summarise(directory, reference)
        table.add_row(
            summary.name,
            percent(summary.accuracy),
            percent(summary.incremental),
            percent(summary.forgetting),
            percent(summary.task_incremental),
            " ".join(percent(value, 0) for value in summary.per_task),
            " ".join(percent(value, 0) for value in summary.per_exit),
            _cost_text(summary, reference),
        )
    return table


def _cost_text(summary: Summary, reference: float | None) -> str:
    if reference is None:
        return "–"
    return "not reached" if summary.cost_at_final is None else f"{percent(summary.cost_at_final, 0)} %"
