"""How far the runs of a study are: a live line for each in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cl_ac.recording.progress import Standing

# Of a run in a log, in seconds.
BETWEEN_LINES = 30.0


class StudyProgress(AbstractContextManager):
    """Progress of many runs.

    Args:
        console: where it is shown.
        runs: how many there are.
    """

    def __init__(self, console: Console, runs: int):
        self.console, self.runs, self.ended = console, runs, 0
        columns = TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[left]} left")
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.total = self.bars.add_task(f"0/{runs} runs", total=runs, left="–")
        self.rows: dict[str, TaskID] = {}
        self.began: dict[str, tuple[float, int]] = {}
        self.lines: dict[str, float] = {}
        self.start = time.monotonic()

    def __enter__(self) -> "StudyProgress":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def end(self, name: str) -> None:
        """The run called `name` is over."""
        self.ended += 1
        if name in self.rows:
            self.bars.remove_task(self.rows.pop(name))

    def show(self, standings: Mapping[str, Standing]) -> None:
        """Shows how far the runs are that go on now, by name."""
        now, done = time.monotonic(), float(self.ended)
        for name, standing in standings.items():
            since, before = self.began.setdefault(name, (now, standing.done))
            left = left_text(now - since, standing.done - before, standing.total - standing.done)
            done += standing.done / max(1, standing.total)
            text = f"{name}  {standing_text(standing)}"
            if name not in self.rows:
                self.rows[name] = self.bars.add_task(text, total=standing.total, left=left)
            self.bars.update(self.rows[name], description=text, completed=standing.done, left=left)
            if not self.console.is_terminal and now - self.lines.setdefault(name, now) > BETWEEN_LINES:
                self.lines[name] = now
                self.console.print(f"{text}  {left} left", highlight=False, soft_wrap=True)
        left = left_text(now - self.start, done, self.runs - done)
        self.bars.update(self.total, description=f"{self.ended}/{self.runs} runs", completed=done, left=left)


def standing_text(standing: Standing) -> str:
    """Task, epoch and accuracy so far."""
    task = min(standing.finished + 1, standing.tasks)
    epoch = f"  epoch {standing.epoch}/{standing.epochs}" if standing.epochs else ""
    accuracy = "" if standing.accuracy is None else f"  {100 * standing.accuracy:.1f} % so far"
    return f"task {task}/{standing.tasks}{epoch}{accuracy}"


def left_text(seconds: float, done: float, rest: float) -> str:
    """The time that `rest` takes, if `done` took `seconds`."""
    return str(timedelta(seconds=round(seconds / done * rest))) if done > 0 else "–"
