"""TensorBoard event files and the charts that they open with.

Steps are training steps over the whole run. Tags:

    train/loss/<exit>                    mean loss of an epoch
    train/learning_rate
    validation/accuracy                  where the best epoch is selected by it
    accuracy/task_<u>/<exit>             test accuracy on task u after each task
    accuracy_task_incremental/task_<u>/<exit>
    accuracy/average/<exit>              mean over the tasks seen
    forgetting/<exit>                    mean over the earlier tasks
    cost_accuracy/after_task_<t>         a figure
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cl_ac.benchmark import Task
from cl_ac.evaluation import forgetting
from cl_ac.rundir import RunDirectory
from cl_ac.training import EpochReport


def exit_names(exits: int) -> list[str]:
    """`exit_0` … for the ACs and `final` for the last classifier."""
    return [*(f"exit_{index}" for index in range(exits - 1)), "final"]


class EventLog:
    """Writes a run's events into its directory.

    Args:
        path: the run directory.
        exits: E.
        tasks: T of the whole benchmark.
        step: where the run goes on; later events of an earlier attempt are hidden.
    """

    def __init__(self, path: Path, exits: int, tasks: int, step: int = 0):
        self.writer = SummaryWriter(str(path), purge_step=step + 1 if step else None)
        self.names = exit_names(exits)
        if step == 0:
            self.writer.add_custom_scalars(dashboard(self.names, tasks))

    def epoch(self, report: EpochReport, step: int) -> None:
        """The losses of one epoch, at `step` of the run."""
        for name, loss in zip(self.names, report.losses.tolist(), strict=True):
            self.writer.add_scalar(f"train/loss/{name}", loss, step)
        self.writer.add_scalar("train/learning_rate", report.lr, step)
        if report.validation is not None:
            self.writer.add_scalar("validation/accuracy", report.validation, step)
        self.writer.flush()

    def task(self, task: Task, directory: RunDirectory, step: int) -> None:
        """The accuracies after one task."""
        self._accuracies("accuracy", directory.accuracies(), directory.ac_accuracies(), step)
        self._accuracies("accuracy_task_incremental", directory.accuracies(True), directory.ac_accuracies(True), step)
        if not task.is_first:
            lost = torch.cat([forgetting(directory.accuracies()), forgetting(directory.ac_accuracies())[:, None]], 1)
            for name, value in zip([*self.names, "most_confident"], lost.mean(0).tolist(), strict=True):
                self.writer.add_scalar(f"forgetting/{name}", value, step)
        from cl_ac.report.figures import cost_accuracy_figure

        figure = cost_accuracy_figure({directory.name: directory.outputs(task.index)})
        self.writer.add_figure(f"cost_accuracy/after_task_{task.index}", figure, step)
        self.writer.flush()

    def _accuracies(self, tag: str, cube: Tensor, most_confident: Tensor, step: int) -> None:
        row = torch.cat([cube[-1], most_confident[-1][:, None]], 1)
        for name, values in zip([*self.names, "most_confident"], row.T.tolist(), strict=True):
            for on_task, value in enumerate(values):
                self.writer.add_scalar(f"{tag}/task_{on_task}/{name}", value, step)
            self.writer.add_scalar(f"{tag}/average/{name}", sum(values) / len(values), step)

    def close(self) -> None:
        self.writer.close()


def dashboard(names: list[str], tasks: int) -> dict[str, dict[str, list]]:
    """One chart for each question, on the Custom Scalars page."""
    every = [*names, "most_confident"]
    return {
        "accuracy": {
            "average over the tasks seen": ["Multiline", [f"accuracy/average/{name}" for name in every]],
            "each task, final exit": ["Multiline", [f"accuracy/task_{task}/final" for task in range(tasks)]],
            "first task, each exit": ["Multiline", [f"accuracy/task_0/{name}" for name in every]],
        },
        "forgetting": {"mean over the earlier tasks": ["Multiline", [f"forgetting/{name}" for name in every]]},
        "training": {
            "loss": ["Multiline", [f"train/loss/{name}" for name in names]],
            "learning rate": ["Multiline", ["train/learning_rate"]],
        },
    }
