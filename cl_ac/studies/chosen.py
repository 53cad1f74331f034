"""What a search comes to: its trials, tables of them, and the best settings as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from cl_ac.recording.files import write_atomically
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.studies.search import Value

# Of a table in a terminal; the report has all rows.
MOST_ROWS = 20


@dataclass(frozen=True)
class Ended:
    """What came of a trial.

    Args:
        number: in the order in which they began.
        chosen: the settings that were tried.
        accuracy: on held-out images, mean over tasks and seeds; None if it was given up or failed.
        tasks: that were learned, those of all seeds together.
        problem: why it failed.
    """

    number: int
    chosen: dict[str, Value]
    accuracy: float | None
    tasks: int
    problem: str | None = None

    @property
    def outcome(self) -> str:
        """One word."""
        return "failed" if self.problem else "pruned" if self.accuracy is None else "finished"


def trial_table(trials: Sequence[Ended], names: Sequence[str]) -> ResultTable:
    """All trials, the best first."""
    ranked = sorted(trials, key=lambda each: (-1 if each.accuracy is None else each.accuracy, each.tasks), reverse=True)
    rows: list[list[Cell]] = [
        [
            each.number,
            *(cell(each.chosen.get(name)) for name in names),
            each.outcome,
            each.tasks,
            "–" if each.accuracy is None else Spread((each.accuracy,)),
        ]
        for each in ranked
    ]
    title = "Accuracy on held-out images after the last task, %, mean over tasks and seeds"
    return ResultTable("trials", title, ["trial", *names, "outcome", "tasks learned", "held out"], rows)


def cell(value: Value) -> Cell:
    """The value of a setting; one that is left out is a dash."""
    return "–" if value is None else str(value) if isinstance(value, bool) else value


def for_people(results: ResultTable, caption: str = "") -> Table:
    """The first rows of a table, for a terminal."""
    more = len(results.rows) - MOST_ROWS
    told = [*([f"and {more} more, which the report shows"] if more > 0 else []), *([caption] if caption else [])]
    shown = Table(title=results.title, caption="\n".join(told) or None)
    for place, column in enumerate(results.columns):
        words = all(isinstance(row[place], str) for row in results.rows)
        shown.add_column(column, justify="left" if words or not place else "right")
    for row in results.rows[:MOST_ROWS]:
        shown.add_row(*(f"{each:.4g}" if isinstance(each, float) else str(each) for each in row))
    return shown


def write_settings(path: Path, settings: Mapping[str, Any], words: str) -> None:
    """Writes settings for `cl-ac run --config`, with `words` above them as a comment.

    Raises:
        StorageError: if the disk refuses them.
    """
    text = "".join(f"# {line}\n" for line in words.splitlines()) + yaml.safe_dump(dict(settings), sort_keys=False)
    write_atomically(path, lambda file: file.write_text(text))
