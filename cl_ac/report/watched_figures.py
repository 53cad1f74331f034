"""Figures of what was watched during training: old tasks while new ones are learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cl_ac.recording.figures import DEPTHS, LINES, PANEL, legend, panel
from cl_ac.watching.stability import Watched, answer_text


def main_answer(watched: Watched) -> str:
    """The answer that a run is judged by."""
    return "most_confident" if "most_confident" in watched.answers else "final"


def task_history(tasks: Sequence[Watched], on_task: int, answer: str) -> tuple[Tensor, Tensor]:
    """The accuracy on one task since it began.

    Args:
        tasks: one for each task of the run.
    Returns:
        Steps of the run [K] and accuracies [K].
    """
    later = [each for each in tasks if each.task >= on_task]
    steps = torch.cat([each.start + each.steps for each in later])
    return steps, torch.cat([each.accuracy[:, each.answers.index(answer), on_task] for each in later])


def task_accuracy_figure(tasks: Sequence[Watched], title: str) -> Figure:
    """The accuracy on each task over the steps of a run; dotted lines where tasks begin."""
    answer = main_answer(tasks[0])
    with panel() as (figure, axes):
        for each in tasks:
            steps, accuracy = task_history(tasks, each.task, answer)
            colour = LINES[each.task % len(LINES)]
            axes.plot(steps, 100 * accuracy, color=colour, linewidth=1.2, label=f"task {each.task + 1}")
        _finish(figure, axes, tasks, title)
    return figure


def old_tasks_figure(tasks: Sequence[Watched], title: str) -> Figure:
    """The mean accuracy on earlier tasks by each exit, and by the means of classes where those were watched."""
    heads = [name for name in tasks[0].answers if "/" not in name and name != "most_confident"]
    with panel() as (figure, axes):
        for index, name in enumerate(heads):
            colour = DEPTHS(0.9 * (1 - index / max(1, len(heads) - 1)))
            _plot_old(axes, tasks, name, color=colour, linewidth=1.2)
        for name, line_colour in (("most_confident", LINES[3]), ("nearest_mean/final", LINES[1])):
            if name in tasks[0].answers and len(heads) > (name == "most_confident"):
                _plot_old(axes, tasks, name, color=line_colour, linewidth=1.2, linestyle="--")
        _finish(figure, axes, tasks, title)
    return figure


def gap_overlay(runs: Mapping[str, Sequence[Watched]]) -> Figure:
    """Mean accuracy on the earlier tasks as each later task is learned, of several runs over each other.

    The axis counts tasks, so that runs with other numbers of steps line up; each task is as wide as any other.

    Args:
        runs: what was watched of each, by name.
    """
    with panel(2 * PANEL[0]) as (figure, axes):
        for place, (name, tasks) in enumerate(runs.items()):
            where, accuracy = _over_tasks([each for each in tasks if each.task > 0])
            axes.plot(where, 100 * accuracy, color=LINES[place % len(LINES)], linewidth=1.2, label=name)
        axes.locator_params("x", integer=True)
        axes.set_xlabel("tasks learned")
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(-2, 102)
        axes.set_title("mean of earlier tasks while later ones are learned")
        legend(figure, axes, 3)
    return figure


def _over_tasks(later: Sequence[Watched]) -> tuple[Tensor, Tensor]:
    """Tasks learned [K], in fractions while one is learned, and the mean accuracy on the earlier ones [K]; NaN between
    tasks.
    """
    gap, where, accuracy = torch.full((1,), torch.nan), [], []
    for each in later:
        where += [each.task + each.steps / max(1, int(each.steps[-1])), gap]
        accuracy += [each.accuracy[:, each.answers.index(main_answer(each)), :-1].nanmean(-1), gap]
    return torch.cat(where), torch.cat(accuracy)


def _plot_old(axes: Axes, tasks: Sequence[Watched], answer: str, **style: Any) -> None:
    """One line for all tasks but the first, with a gap between tasks."""
    later = [each for each in tasks if each.task > 0]
    gap = torch.full((1,), torch.nan)
    steps = [torch.cat([(each.start + each.steps).float(), gap]) for each in later]
    accuracy = [torch.cat([each.accuracy[:, each.answers.index(answer), :-1].nanmean(-1), gap]) for each in later]
    axes.plot(torch.cat(steps), 100 * torch.cat(accuracy), label=answer_text(answer), **style)


def _finish(figure: Figure, axes: Axes, tasks: Sequence[Watched], title: str) -> None:
    for each in tasks[1:]:
        axes.axvline(each.start, color="0.6", linestyle=":", linewidth=0.9, zorder=1)
    axes.set_xlabel("training step")
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(-2, 102)
    axes.set_title(title)
    legend(figure, axes, 3)
