"""What happens beside training: checkpoints, results on disk, TensorBoard and progress."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from torch import nn

from cl_ac.data.tasks import Task
from cl_ac.evaluation import Outputs
from cl_ac.network import ExitNetwork
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.loggers import LoggerName
from cl_ac.recording.progress import RunProgress
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.tensorboard import EventLog
from cl_ac.training import EpochReport
from cl_ac.watching.stability import Watched


class Journal:
    """Keeps everything that a run must not lose, and shows how far it is.

    Args:
        directory: where results go.
        checkpoint: where the run goes on.
        network: saved after every epoch, as is `approach`.
        approach: the approach, as a module with state.
        epochs: epochs of each task.
        console: where progress is shown.
        loggers: where scalars and figures go.
        keep_checkpoints: keep the state after every task, not only the newest.
        keep_outputs: keep the outputs after each so many-th task, and the newest.
    """

    def __init__(
        self,
        directory: RunDirectory,
        checkpoint: Checkpoint,
        network: ExitNetwork,
        approach: nn.Module,
        epochs: list[int],
        console: Console,
        loggers: Sequence[LoggerName] = ("tensorboard",),
        keep_checkpoints: bool = False,
        keep_outputs: int = 1,
    ):
        self.directory, self.checkpoint = directory, checkpoint
        self.network, self.approach = network, approach
        self.keep_checkpoints, self.keep_outputs = keep_checkpoints, keep_outputs
        fit = checkpoint.fit or {"epoch": 0, "steps": 0}
        self.step = checkpoint.steps + fit["steps"]
        self.epochs, self.tasks = epochs, len(epochs)
        self.events = EventLog(directory, len(network), self.tasks, self.step, loggers)
        self.progress = RunProgress(console, sum(epochs), sum(epochs[: checkpoint.task]) + fit["epoch"])
        self.began = time.perf_counter() - checkpoint.seconds

    def __enter__(self) -> "Journal":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
        self.events.close()

    def watched(self, watched: Watched, known: int) -> None:
        """Keeps the watched points of the task being learned, of which the first `known` are kept already."""
        self.directory.keep_watched(watched)
        self.events.watched(watched, known)

    def untrained(self, watched: tuple[Watched, int] | None) -> None:
        """Notes a task on which nothing is fitted, and what was watched of it all the same."""
        if watched:
            self.watched(*watched)
        self.progress.skip(self.epochs[self.checkpoint.task])

    def epoch(self, task: Task, report: EpochReport) -> None:
        """Saves the state after one epoch; events first, so that a run killed in between writes none of them twice."""
        self.step = self.checkpoint.steps + report.steps
        self.events.epoch(report, self.step)
        self._save(task.index, self.checkpoint.steps, report.state)
        self.progress.epoch(task, report)

    def task(self, task: Task, outputs: Outputs, of_stream: Mapping[str, Any]) -> None:
        """Keeps the results of one task; from here on a resumed run starts with the next.

        Args:
            of_stream: what its record says beside the outputs.
        """
        record = Record.of(task.index, outputs, time.perf_counter() - self.began, **of_stream)
        self.directory.finish(record, outputs, self.keep_outputs)
        self.events.task(task, self.directory, self.step)
        self.began = time.perf_counter()
        self._save(task.index + 1, self.step, None)
        if self.keep_checkpoints:
            self.directory.keep_checkpoint(task.index)
        self.progress.task(record, self.tasks)

    def _save(self, task: int, steps: int, fit: dict | None) -> None:
        seconds = time.perf_counter() - self.began
        state = self.network.state_dict(), self.approach.state_dict()
        run = self.checkpoint.run
        Checkpoint(task, fit, steps, seconds, *state, run).save(self.directory.checkpoint_path)
        if fit is None:
            self.checkpoint = Checkpoint(task, fit, steps, run=run)
