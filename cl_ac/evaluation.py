"""What a network says of the test data after a task, and the accuracies that follow from it.

Everything reported is a pure function of `Outputs`. Shapes: E exits, N samples, C classes seen, T tasks seen. An
accuracy cube is `a[t, u, i]`: after task t, on task u, at exit i; NaN where u > t. Accuracies are in [0, 1]. A task
that brings only classes of earlier tasks has no test samples of its own: its accuracy is NaN, and means leave it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cl_ac.data.tasks import open_classes, task_slices


@dataclass(frozen=True)
class ExitCosts:
    """Multiply-accumulates of one image, and what the network weighs.

    Args:
        exits: up to each exit, its own and all earlier classifiers included [E].
        plain: of the same network without ACs.
        parameters: of the network, ACs included; None where they were not counted.
    """

    exits: list[float]
    plain: float
    parameters: int | None = None

    @property
    def relative(self) -> list[float]:
        """Cost up to each exit as a share of the network without ACs [E]."""
        return [cost / self.plain for cost in self.exits]

    def times(self, passes: int) -> "ExitCosts":
        """The cost of as many passes."""
        return ExitCosts([passes * cost for cost in self.exits], passes * self.plain, self.parameters)

    def tensors(self) -> dict[str, Tensor]:
        """As a safetensors file holds it."""
        named = {"cost_exits": self.exits, "cost_plain": [self.plain]}
        found = {name: torch.tensor(value, dtype=torch.float64) for name, value in named.items()}
        return found if self.parameters is None else {**found, "cost_parameters": torch.tensor([self.parameters])}

    @staticmethod
    def load(path: Path) -> "ExitCosts":
        """Reads what `Outputs.save` wrote of it, and nothing else of the file."""
        with safe_open(path, "pt") as file:
            parameters = file.get_tensor("cost_parameters").item() if "cost_parameters" in file.keys() else None  # noqa: SIM118
            return ExitCosts(file.get_tensor("cost_exits").tolist(), file.get_tensor("cost_plain").item(), parameters)


@dataclass(frozen=True)
class Outputs:
    """Every exit's corrected logits on the test samples of all tasks seen.

    Args:
        logits: float32 [E, N, C].
        targets: int64 [N].
        tasks: int64 [N], the task that each sample belongs to: that its class was new in, or of its domain.
        sizes: classes that were new in each task seen [T].
        cost: multiply-accumulates at each exit.
    """

    logits: Tensor
    targets: Tensor
    tasks: Tensor
    sizes: tuple[int, ...]
    cost: ExitCosts

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax over all classes seen [E, N, C]."""
        return self.logits.softmax(-1)

    @cached_property
    def confidences(self) -> Tensor:
        """Largest probability of each exit [E, N]."""
        return self.probabilities.amax(-1)

    @cached_property
    def predictions(self) -> Tensor:
        """Class-incremental prediction of each exit [E, N]."""
        return self.logits.argmax(-1)

    @cached_property
    def correct(self) -> Tensor:
        """Whether each exit is right [E, N]."""
        return self.predictions == self.targets

    @cached_property
    def task_incremental(self) -> "Outputs":
        """The same outputs when each sample's task is known: the logits of classes not open to choice are −inf."""
        return replace(self, logits=self.logits.where(self.open_classes[self.tasks], -torch.inf))

    @cached_property
    def open_classes(self) -> Tensor:
        """The classes that are open to choice where the task is known: bool [T, C].

        A task with test samples of classes before its own is one of a domain.
        """
        starts = torch.tensor([classes.start for classes in task_slices(self.sizes)])
        in_domains = torch.zeros(len(self.sizes), dtype=torch.bool)
        in_domains[self.tasks[self.targets < starts[self.tasks]]] = True
        return open_classes(self.sizes, in_domains)

    @property
    def tested_classes(self) -> list[int]:
        """How many classes each task is tested on, if at all: its new ones, or in a domain all so far [T]."""
        return self.open_classes.sum(1).tolist()

    @property
    def task_of_class(self) -> Tensor:
        """The task that each class was new in [C]."""
        return torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))

    def select(self, samples: Tensor) -> "Outputs":
        """The outputs of some samples, given by a mask [N] or by indices."""
        return replace(self, logits=self.logits[:, samples], targets=self.targets[samples], tasks=self.tasks[samples])

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        tensors = {
            "logits": self.logits.contiguous(),
            "targets": self.targets.clone(),
            "tasks": self.tasks.clone(),
            "sizes": torch.tensor(self.sizes),
            **self.cost.tensors(),
        }
        save_file(tensors, path)

    @staticmethod
    def load(path: Path) -> "Outputs":
        """Reads what `save` wrote."""
        with safe_open(path, "pt") as file:
            logits, targets, tasks, sizes = map(file.get_tensor, ("logits", "targets", "tasks", "sizes"))
        return Outputs(logits, targets, tasks, tuple(sizes.tolist()), ExitCosts.load(path))


def most_confident(outputs: Outputs) -> Tensor:
    """The exit [N] that is surest of its answer, the shallower one in a tie: the AC paper's static rule."""
    return outputs.confidences.argmax(0)


def exit_accuracy(outputs: Outputs) -> Tensor:
    """Accuracy [T, E] of each exit on each task."""
    return _per_task(outputs.correct.T.double(), outputs.tasks, len(outputs.sizes))


def ac_accuracy(outputs: Outputs) -> Tensor:
    """Accuracy [T] on each task when the most confident exit answers."""
    chosen = most_confident(outputs)
    return _per_task(outputs.correct.gather(0, chosen[None])[0].double(), outputs.tasks, len(outputs.sizes))


def _per_task(values: Tensor, tasks: Tensor, num_tasks: int) -> Tensor:
    sums = values.new_zeros(num_tasks, *values.shape[1:]).index_add_(0, tasks, values)
    counts = tasks.bincount(minlength=num_tasks)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def cube(rows: Sequence[Tensor]) -> Tensor:
    """Stacks the accuracies after each task, [1, ...], [2, ...], …, to [T, T, ...] with NaN above the diagonal.

    Rows that are left out, as of ACs that were added after the last task, are NaN.
    """
    tasks = max(map(len, rows))
    result = torch.full((tasks, tasks, *rows[0].shape[1:]), torch.nan, dtype=torch.float64)
    for row in rows:
        result[len(row) - 1, : len(row)] = row
    return result


def average(row: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Mean over tasks of accuracies [T, ...]; weighted by `classes`, how many each is tested on, if given."""
    tested = ~row.flatten(1).isnan().any(1) if row.ndim > 1 else ~row.isnan()
    if classes is None:
        return row[tested].mean(0)
    weights = torch.tensor(classes[: len(row)], dtype=row.dtype)[tested]
    return torch.tensordot(weights / weights.sum(), row[tested], dims=1)


def average_incremental(accuracies: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Mean over t of the average accuracy after task t, of a cube [T, T, ...].

    With `classes`, how many each task is tested on, it is the published average incremental accuracy (Rebuffi et al.,
    2017), the mean over t of the accuracy on all classes seen, each class counting the same. Without, tasks count the
    same; if they are of one size the two are equal.
    """
    tasks = len(accuracies)
    counts = torch.ones(tasks) if classes is None else torch.tensor(classes[:tasks])
    # A task without test samples has none after any task.
    tested = ~accuracies[-1].flatten(1).isnan().any(1) if accuracies.ndim > 2 else ~accuracies[-1].isnan()
    weights = (counts * tested).to(accuracies.dtype).expand(tasks, tasks).tril()
    seen = accuracies.movedim((0, 1), (-2, -1)).tril().where(tested, 0)
    return (seen * weights / weights.sum(1, keepdim=True)).sum((-2, -1)) / tasks


def forgetting(accuracies: Tensor) -> Tensor:
    """How far each task but the last is below its best (Chaudhry et al., 2018): `max_{t' < T−1} a[t', u] − a[T−1, u]`.

    Args:
        accuracies: [T, T, ...].
    Returns:
        [T − 1, ...]; empty after the first task.
    """
    last = len(accuracies) - 1
    best = accuracies[:last, :last].nan_to_num(-torch.inf)
    lost = best.amax(0) - accuracies[last, :last] if last else accuracies[0, :0]
    return lost.where(lost.isfinite(), torch.nan)


def backward_transfer(accuracies: Tensor) -> Tensor:
    """Change on each task but the last since it was learned (Lopez-Paz & Ranzato, 2017): `a[T−1, u] − a[u, u]`."""
    last = len(accuracies) - 1
    return torch.stack([accuracies[last, task] - accuracies[task, task] for task in range(last)] or [accuracies[0, 0]])[
        :last
    ]
