"""What happens to old tasks while a new one is learned: the stability gap (De Lange et al., 2023).

Pure functions of `Watched`. Shapes: K watched points, A answers, T tasks seen, the newest included.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Watched:
    """What every answer said of all tasks seen while the newest was trained.

    An answer is a classifier at an exit: `exit_0`, …, `final` and `most_confident` are the trained heads,
    `nearest_mean/exit_0`, …, `nearest_mean/final` the class means where those were watched too.

    Args:
        task: index of the newest task.
        start: steps of the run before the task's first.
        steps: steps of the task at each point, int64 [K]; 0 is before the first update.
        answers: A names.
        accuracy: class-incremental, in [0, 1], float32 [K, A, T].
        predicted_task: share of each task's samples (third axis) that are taken for each task (last axis), float32
            [K, A, T, T].
    """

    task: int
    start: int
    steps: Tensor
    answers: list[str]
    accuracy: Tensor
    predicted_task: Tensor

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        tensors = {name: getattr(self, name).contiguous() for name in ("steps", "accuracy", "predicted_task")}
        save_file(tensors, path, {"task": str(self.task), "start": str(self.start), "answers": "\n".join(self.answers)})

    @staticmethod
    def load(path: Path) -> "Watched":
        """Reads what `save` wrote."""
        with safe_open(path, "pt") as file:
            described = file.metadata()
            tensors = [file.get_tensor(name) for name in ("steps", "accuracy", "predicted_task")]
        steps, *rest = tensors
        return Watched(int(described["task"]), int(described["start"]), steps, described["answers"].split("\n"), *rest)

    def until(self, step: int) -> "Watched":
        """The points up to `step` of the task."""
        kept: Tensor = self.steps <= step
        return Watched(
            self.task, self.start, self.steps[kept], self.answers, self.accuracy[kept], self.predicted_task[kept]
        )


def task_recency_bias(watched: Watched) -> Tensor:
    """Mean over earlier tasks of the share of their samples that is taken for the newest task [K, A]; NaN at T = 1."""
    return watched.predicted_task[:, :, :-1, -1].mean(-1)


def minimum_accuracy(watched: Watched) -> Tensor:
    """Lowest accuracy of each earlier task since the newest began, so far at each point [K, A, T − 1]."""
    return torch.cummin(watched.accuracy[:, :, :-1], 0).values
