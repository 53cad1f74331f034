"""What happens beside training: checkpoints, results on disk, TensorBoard and progress."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from torch import nn

from cl_ac.data.tasks import Task
from cl_ac.evaluation import Outputs
from cl_ac.network import ExitNetwork
from cl_ac.recording.checkpoint import Checkpoint, frozen_path
from cl_ac.recording.frozen import FrozenWeights
from cl_ac.recording.loggers import LoggerName
from cl_ac.recording.progress import RunProgress, Standing
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
        on_progress: is told after each epoch and each task, when they are kept.
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
        on_progress: Callable[[Standing], None] | None = None,
    ):
        self.directory, self.checkpoint, self.frozen = directory, checkpoint, checkpoint.frozen
        self.network, self.approach = network, approach
        self.keep_checkpoints, self.keep_outputs = keep_checkpoints, keep_outputs
        self.on_progress = on_progress
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
        self._tell(task.index, report.epoch + 1)

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
        self.progress.task(record, self.tasks)
        self._tell(task.index + 1, 0)

    def _tell(self, finished: int, epoch: int) -> None:
        if self.on_progress is None:
            return
        records = self.directory.records
        # A task that brings no new class has no accuracy of its own.
        answers = [each for each in records[-1].most_confident if not math.isnan(each)] if records else []
        self.on_progress(
            Standing(
                tasks=self.tasks,
                finished=finished,
                epoch=epoch,
                epochs=self.epochs[finished] if finished < self.tasks else 0,
                done=sum(self.epochs[:finished]) + epoch,
                total=sum(self.epochs),
                accuracy=sum(answers) / len(answers) if answers else None,
            )
        )

    def _save(self, task: int, steps: int, fit: dict | None) -> None:
        run, seconds = self.checkpoint.run, time.perf_counter() - self.began
        if self.directory.keeps_state:
            state = self.network.state_dict(), self.approach.state_dict()
            path = self.directory.checkpoint_path
            if not self.frozen.tensors:
                self.frozen = FrozenWeights.of(self.network.frozen_state())
                self.frozen.save(frozen_path(path))
            checkpoint = Checkpoint(task, fit, steps, seconds, *state, run, self.frozen)
            checkpoint.save(path)
            if fit is None and self.keep_checkpoints:
                self.directory.keep_checkpoint(checkpoint)
        if fit is None:
            self.checkpoint = Checkpoint(task, fit, steps, run=run)
