"""What a person sees while work goes on: bars with the time left in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cl_ac.data.tasks import Task
from cl_ac.evaluation import average
from cl_ac.recording.records import Record
from cl_ac.training import EpochReport


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Args:
        tasks: of the run.
        finished: tasks that are learned and evaluated.
        epoch: epochs done of the task being learned.
        epochs: that it has; 0 after the last task.
        done: epochs done of the whole run.
        total: epochs of the whole run.
        accuracy: of the most confident exit after the newest finished task, mean over the tasks seen; None before.
    """

    tasks: int
    finished: int
    epoch: int
    epochs: int
    done: int
    total: int
    accuracy: float | None


class RunProgress:
    """Progress of one run.

    Args:
        console: where it is shown.
        epochs: epochs of the whole run.
        done: epochs done before, when the run goes on.
    """

    def __init__(self, console: Console, epochs: int, done: int = 0):
        self.console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.row = self.bar.add_task("starting", total=epochs, completed=done)
        self.last_line = time.monotonic()

    def start(self) -> None:
        self.bar.start()

    def stop(self) -> None:
        self.bar.stop()

    def epoch(self, task: Task, report: EpochReport) -> None:
        """One more epoch is done."""
        # What the step descends is a weighted sum over exits; that of one exit can be compared between runs.
        whose = "loss of the final exit" if len(report.losses) > 1 else "loss"
        text = f"task {task.index + 1}  {whose} {report.losses[-1]:.3f}"
        self.bar.update(self.row, advance=1, description=text)
        # In a log file one line every ten seconds is enough to see that the run is alive.
        if not self.console.is_terminal and time.monotonic() - self.last_line > 10:
            self.last_line = time.monotonic()
            self.console.print(f"{text}  epoch {report.epoch + 1}/{report.epochs}", highlight=False)

    def skip(self, epochs: int) -> None:
        """As many epochs will not be run."""
        self.bar.update(self.row, advance=epochs)

    def task(self, record: Record, tasks: int) -> None:
        """One more task is done."""
        final = average(torch.tensor([exits[-1] for exits in record.exits], dtype=torch.float64)).item()
        accuracy = f"{100 * final:.1f} %"
        if len(record.relative_cost) > 1:
            ac = average(torch.tensor(record.most_confident, dtype=torch.float64)).item()
            accuracy = f"of most confident exit {100 * ac:.1f} %, final exit {accuracy}"
        text = f"task {record.task + 1}/{tasks}  accuracy {accuracy}"
        self.console.print(f"{text}  ({record.seconds:.1f} s)", highlight=False)


@contextmanager
def phases(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Shows phases of work as bars in a terminal, and as a line when each is done elsewhere.

    Yields:
        what to call with the name of a phase, how much of it is done, and how much there is.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rows: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def advance(phase: str, done: int, total: int) -> None:
            if phase not in rows:
                rows[phase] = bars.add_task(phase, total=total)
            bars.update(rows[phase], completed=done)
            if done == total and not console.is_terminal:
                console.print(f"{phase}: done", highlight=False)

        yield advance
