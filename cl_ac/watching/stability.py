"""What happens to old tasks while a new one is learned: the stability gap (De Lange et al., 2023).

Pure functions of `Watched`. Shapes: K watched points, A answers, T tasks seen, the newest included.

A task's accuracy before is that of the first watched point: the heads have grown, nothing is trained yet. This point
counts among the points that a minimum is taken over, so that no gap is negative. Where a value relative to it is asked
for a task at 0 %, it is NaN, and means leave it out. So they do with a task that is not tested on its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
            [K, A, T, T]; NaN for tasks that bring no classes.
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
        return replace(
            self,
            steps=self.steps[kept],
            accuracy=self.accuracy[kept],
            predicted_task=self.predicted_task[kept],
        )

    @staticmethod
    def empty(task: int, start: int, answers: list[str], tasks: int) -> "Watched":
        """No point yet, with `tasks` tasks seen."""
        steps, shape = torch.empty(0, dtype=torch.int64), (0, len(answers), tasks)
        return Watched(task, start, steps, answers, torch.empty(shape), torch.empty(*shape, tasks))

    def followed_by(self, steps: Tensor, accuracy: Tensor, predicted_task: Tensor) -> "Watched":
        """These points, and then others of the same task."""
        return replace(
            self,
            steps=torch.cat([self.steps, steps]),
            accuracy=torch.cat([self.accuracy, accuracy]),
            predicted_task=torch.cat([self.predicted_task, predicted_task]),
        )

    @property
    def earlier(self) -> Tensor:
        """Accuracy on the earlier tasks, float64 [K, A, T − 1]."""
        return self.accuracy[:, :, :-1].double()


def exit_names(exits: int) -> list[str]:
    """`exit_0` … for the ACs and `final` for the last classifier."""
    return [*(f"exit_{index}" for index in range(exits - 1)), "final"]


def answer_text(answer: str) -> str:
    """The name of an answer for people: `exit 0`, `nearest mean, final`."""
    return answer.replace("nearest_mean/", "nearest mean, ").replace("_", " ")


def answer_names(exits: int, nearest_mean: bool) -> list[str]:
    """The answers of a network with so many exits, in the order of `Watched`."""
    names = exit_names(exits)
    return [*names, "most_confident", *(f"nearest_mean/{name}" for name in names if nearest_mean)]


def task_recency_bias(watched: Watched) -> Tensor:
    """Mean over earlier tasks of the share of their samples that is taken for the newest task [K, A].

    NaN at T = 1, and where the newest task brings no classes that samples could be taken for.
    """
    return watched.predicted_task[:, :, :-1, -1].nanmean(-1)


def minimum_accuracy(watched: Watched) -> Tensor:
    """Lowest accuracy of each earlier task since the newest began, so far at each point [K, A, T − 1].

    With the minimum over the newest task's updates only, this is min-ACC as the stability-gap experiments with nearest
    means count it; `minimum_accuracy_since_learned` is the original.
    """
    return torch.cummin(watched.accuracy[:, :, :-1], 0).values


def minimum_accuracy_since_learned(run: Sequence[Watched]) -> Tensor:
    """Lowest accuracy of each earlier task over all later updates, of whatever task (De Lange et al., 2023) [A, T − 1].

    Args:
        run: the tasks of a run from the second on, or from the first.
    """
    lowest = [[w.accuracy[:, :, task].amin(0) for w in run if w.task > task] for task in range(run[-1].task)]
    shape = (len(run[-1].answers), 0)
    return torch.stack([torch.stack(over).amin(0) for over in lowest], 1) if lowest else torch.empty(shape)


def worst_case_accuracy(newest: Tensor, minimum: Tensor) -> Tensor:
    """WC-ACC (De Lange et al., 2023): `a_newest / T + (1 − 1 / T) · mean of the minima`.

    Args:
        newest: accuracy of the newest task [...].
        minimum: min-ACC of each earlier task, of either kind [..., T − 1].
    """
    tested = (~newest.isnan()).to(minimum.dtype) + (~minimum.isnan()).sum(-1)
    return (newest.nan_to_num() + minimum.nan_to_num().sum(-1)) / tested


def stability_gap(watched: Watched) -> Tensor:
    """How far each earlier task fell at most while the newest was learned: before − lowest [A, T − 1]."""
    return watched.earlier[0] - watched.earlier.amin(0)


def recovery(watched: Watched) -> Tensor:
    """How far each earlier task came up again from its lowest point: last − lowest [A, T − 1]."""
    return watched.earlier[-1] - watched.earlier.amin(0)


def relative(values: Tensor, before: Tensor) -> Tensor:
    """`values` as a share of the accuracy `before`; NaN where that is 0."""
    return torch.where(before > 0, values / before, torch.nan)


def recovery_steps(steps: Tensor, accuracy: Tensor, level: Tensor) -> Tensor:
    """Steps from the task's begin until accuracy is back at `level`: at the first such point from the lowest on.

    Args:
        steps: [K].
        accuracy: [K, ...].
        level: [...].
    Returns:
        [...]; 0 where accuracy never was below `level`, infinity where it does not come back, NaN without accuracy.
    """
    points = torch.arange(len(steps)).view(-1, *[1] * (accuracy.ndim - 1))
    back = (accuracy >= level) & (points >= accuracy.argmin(0))
    first = steps[back.int().argmax(0)].double().where(back.any(0), torch.inf)
    return first.where(accuracy.amin(0) < level, 0.0).where(~accuracy[0].isnan(), torch.nan)


def gap_area(steps: Tensor, accuracy: Tensor, level: Tensor) -> Tensor:
    """Area between `level` and the curve below it until recovery, in accuracy · steps (trapezoids) [...].

    Divided by the task's steps it is the mean depth of the gap over the task. Arguments are those of `recovery_steps`.
    """
    depth = (level - accuracy).clamp(min=0)
    ends = steps[1:].view(-1, *[1] * (accuracy.ndim - 1))
    inside = ends <= recovery_steps(steps, accuracy, level)
    return ((depth[1:] + depth[:-1]) / 2 * steps.diff().view_as(ends) * inside).sum(0)


def anytime_accuracy(run: Sequence[Watched]) -> Tensor:
    """Average anytime accuracy (Caccia et al., 2020): the mean over tasks seen, then over all steps of the run [A]."""
    return _mean_over_steps(run, [w.accuracy.double().nanmean(-1) for w in run])


def accuracy_area(run: Sequence[Watched], classes: Sequence[int]) -> Tensor:
    """A_AUC (Koh et al., 2022): the mean over all steps of the run of the accuracy on the classes seen by then [A].

    Args:
        classes: how many each task is tested on [T].
    """
    curves = []
    for watched in run:
        weights = torch.tensor(classes[: watched.task + 1], dtype=torch.float64)
        weights = weights.where(~watched.accuracy[0, 0].isnan(), 0)
        curves.append((watched.accuracy.double().nan_to_num() * weights).sum(-1) / weights.sum())
    return _mean_over_steps(run, curves)


def _mean_over_steps(run: Sequence[Watched], curves: Sequence[Tensor]) -> Tensor:
    """The mean of curves [K, A], one for each task, over the steps of the run (trapezoids): [A]."""
    areas = [torch.trapezoid(curve, w.steps.double(), dim=0) for w, curve in zip(run, curves, strict=True)]
    return torch.stack(areas).sum(0) / sum(int(w.steps[-1]) for w in run)


@dataclass(frozen=True)
class StabilitySummary:
    """A run in one number per answer and question, float64 [A] each.

    But for the two values since tasks were learned, which are those at the end of the run, and the anytime accuracy,
    they are means over the earlier tasks while a task is learned, then over these tasks: NaN for a run of one task
    (the worst case at the end of such a run is the accuracy of its task).

    Args:
        answers: A names.
        minimum_accuracy: min-ACC within each task.
        minimum_accuracy_since_learned: min-ACC over all later tasks.
        worst_case_accuracy: WC-ACC with the former.
        worst_case_accuracy_since_learned: WC-ACC with the latter.
        gap: before − lowest.
        relative_gap: the same as a share of the accuracy before.
        recovery: last − lowest.
        relative_recovery: the same as a share of the accuracy before.
        recovered: share of the curves that come back to the accuracy before.
        recovery_steps: until then, over those that do.
        settling_steps: until nine tenths of the accuracy at the task's end are first reached from the lowest point on.
        area: of the gap below the accuracy before, in accuracy · steps.
        mean_depth: the same divided by the task's steps.
        recency_bias: share of earlier tasks' samples taken for the newest task, at each task's end.
        anytime_accuracy: see `anytime_accuracy`.
    """

    answers: list[str]
    minimum_accuracy: Tensor
    minimum_accuracy_since_learned: Tensor
    worst_case_accuracy: Tensor
    worst_case_accuracy_since_learned: Tensor
    gap: Tensor
    relative_gap: Tensor
    recovery: Tensor
    relative_recovery: Tensor
    recovered: Tensor
    recovery_steps: Tensor
    settling_steps: Tensor
    area: Tensor
    mean_depth: Tensor
    recency_bias: Tensor
    anytime_accuracy: Tensor


def summarise(run: Sequence[Watched]) -> StabilitySummary:
    """The summary of all tasks of a run, in order; at least one."""
    later = [watched for watched in run if watched.task]

    def mean(value: Callable[[Watched], Tensor]) -> Tensor:
        values = [value(watched).double() for watched in later]
        means = [each.nanmean(-1) if each.ndim > 1 else each for each in values]
        return torch.stack(means).nanmean(0) if means else torch.full((len(run[-1].answers),), torch.nan)

    def to_before(watched: Watched) -> Tensor:
        return recovery_steps(watched.steps, watched.earlier, watched.earlier[0])

    def area(watched: Watched) -> Tensor:
        return gap_area(watched.steps, watched.earlier, watched.earlier[0])

    newest, since_learned = run[-1].accuracy[-1, :, -1].double(), minimum_accuracy_since_learned(run).double()
    return StabilitySummary(
        run[-1].answers,
        minimum_accuracy=mean(lambda w: w.earlier.amin(0)),
        minimum_accuracy_since_learned=since_learned.nanmean(-1),
        worst_case_accuracy=mean(lambda w: worst_case_accuracy(w.accuracy[-1, :, -1].double(), w.earlier.amin(0))),
        worst_case_accuracy_since_learned=worst_case_accuracy(newest, since_learned),
        gap=mean(stability_gap),
        relative_gap=mean(lambda w: relative(stability_gap(w), w.earlier[0])),
        recovery=mean(recovery),
        relative_recovery=mean(lambda w: relative(recovery(w), w.earlier[0])),
        recovered=mean(lambda w: to_before(w).isfinite().double().where(~to_before(w).isnan(), torch.nan)),
        recovery_steps=mean(lambda w: to_before(w).where(to_before(w).isfinite(), torch.nan)),
        settling_steps=mean(lambda w: recovery_steps(w.steps, w.earlier, 0.9 * w.earlier[-1])),
        area=mean(area),
        mean_depth=mean(lambda w: area(w) / w.steps[-1]),
        recency_bias=mean(lambda w: task_recency_bias(w)[-1]),
        anytime_accuracy=anytime_accuracy(run),
    )
