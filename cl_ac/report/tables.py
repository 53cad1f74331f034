"""Tables of finished runs, in per cent."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import (
    Summary,
    accuracy_of_samples,
    overconfident_exits,
    percent,
    summarise,
    without_acs,
)

# More tasks than these are no list that anybody reads.
MOST_TASKS = 20
KNOWN_TASK = "known task: only the classes of the sample's own task are open to choice"


def summary_table(directories: Sequence[RunDirectory]) -> Table:
    """One row for each run; its caption says what the columns are, and what is wrong with exits."""
    like = [without_acs(directory, directories) for directory in directories]
    references = [None if plain is None else accuracy_of_samples(plain) for plain in like]
    summaries = [summarise(*each) for each in zip(directories, references, strict=True)]
    has_acs = [summary.has_acs for summary in summaries]
    compared = any(acs and plain is not None for acs, plain in zip(has_acs, references, strict=True))
    whose = ", of the most confident exit in runs with ACs" if any(has_acs) else ""
    table = Table(title=f"class-incremental accuracy after the last task, %{whose}")
    listed = all(len(summary.per_task) <= MOST_TASKS for summary in summaries)
    for column in ("run", "accuracy", "incremental", "forgetting", "known task"):
        table.add_column(column, justify="left" if column == "run" else "right")
    if listed:
        table.add_column("per task")
    if any(has_acs):
        table.add_column("per exit")
    if compared:
        table.add_column("cost at equal accuracy", justify="right")
    for summary, reference in zip(summaries, references, strict=True):
        cells = [
            summary.name,
            percent(summary.accuracy),
            percent(summary.incremental),
            percent(summary.forgetting),
            percent(summary.task_incremental),
            *([" ".join(percent(value, 0) for value in summary.per_task)] if listed else []),
            *([" ".join(percent(value, 0) for value in summary.per_exit)] if any(has_acs) else []),
            *([_cost_text(summary, reference) if summary.has_acs else "–"] if compared else []),
        ]
        table.add_row(*cells)
    table.caption = "\n".join(_caption(directories, any(has_acs), compared))
    return table


def _caption(directories: Sequence[RunDirectory], has_acs: bool, compared: bool) -> Iterator[str]:
    yield (
        "incremental: mean of the accuracies after each task; forgetting: how far earlier tasks are below their best; "
        f"{KNOWN_TASK}"
    )
    if has_acs:
        yield "per exit: the first exit to the final one, mean over tasks"
    if compared:
        yield (
            "cost at equal accuracy: share of the network's cost at which early exits are as accurate over all samples "
            "as the run without ACs of the same approach, benchmark and seed"
        )
    for directory in directories:
        outputs = directory.outputs(directory.records[-1].task)
        for name, (accuracy, confidence) in overconfident_exits(outputs).items():
            others = "; the most confident exit often is this one" if len(outputs.logits) > 1 else ""
            yield (
                f"{directory.name}: the {name} guesses ({percent(accuracy)} % of all samples right) and yet is sure of "
                f"itself (mean confidence {percent(confidence, 0)} %){others}"
            )


def _cost_text(summary: Summary, reference: float | None) -> str:
    if reference is None:
        return "–"
    return "not reached" if summary.cost_at_final is None else f"{percent(summary.cost_at_final, 0)} %"
