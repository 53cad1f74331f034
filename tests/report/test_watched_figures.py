from dataclasses import replace

import pytest
import torch

from cl_ac.report.watched_figures import gap_overlay, old_tasks_figure, task_accuracy_figure, task_history
from cl_ac.watching.stability import Watched


def watched(task: int, start: int, accuracy: list[list[float]], answers: list[str]) -> Watched:
    """Points at steps 0, 5, …; every answer has accuracy `accuracy[k][u]`, lower by a tenth for each next answer."""
    values = torch.tensor(accuracy)[:, None].repeat(1, len(answers), 1)
    values -= 0.1 * torch.arange(len(answers))[None, :, None]
    return Watched(task, start, 5 * torch.arange(len(accuracy)), answers, values, torch.zeros(*values.shape, task + 1))


@pytest.fixture
def run():
    answers = ["exit_0", "final", "most_confident", "nearest_mean/exit_0", "nearest_mean/final"]
    return [
        watched(0, 0, [[0.5], [1.0]], answers),
        watched(1, 5, [[0.9, 0.5], [0.7, 1.0]], answers),
        watched(2, 10, [[0.8, 0.9, 0.5], [0.6, 0.8, 1.0]], answers),
    ]


def test_history_of_a_task_goes_over_later_tasks(run):
    steps, accuracy = task_history(run, 1, "final")
    assert steps.tolist() == [5, 10, 10, 15]
    assert accuracy.tolist() == pytest.approx([0.4, 0.9, 0.8, 0.7])


def test_each_task_has_a_line_and_each_switch_a_mark(run):
    (axes,) = task_accuracy_figure(run, "run").axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["task 1", "task 2", "task 3"]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert marks == [5, 10]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([30, 80, 70, 50, 60, 40])  # the most confident exit


def test_old_tasks_by_exit_and_by_nearest_mean(run):
    (axes,) = old_tasks_figure(run, "run").axes
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["exit 0", "final", "most confident", "nearest mean, final"]
    values = handles[1].get_ydata()
    # After a gap between tasks, the mean over tasks 1 and 2.
    assert values[[0, 1, 3, 4]].tolist() == pytest.approx([80, 60, 75, 60])
    assert torch.tensor(values[2]).isnan()


def test_without_acs_the_final_exit_is_drawn_once():
    run = [watched(t, 5 * t, [[0.5] * (t + 1)] * 2, ["final", "most_confident"]) for t in range(2)]
    (axes,) = old_tasks_figure(run, "run").axes
    assert axes.get_legend_handles_labels()[1] == ["final"]


def test_runs_line_up_by_task_whatever_their_steps(run):
    slower = [replace(each, start=3 * each.start, steps=3 * each.steps) for each in run]
    (axes,) = gap_overlay({"LwF": run, "ER": slower}).axes
    first, second = axes.lines
    assert [first.get_label(), second.get_label()] == ["LwF", "ER"]
    assert first.get_xdata()[[0, 1, 3, 4]].tolist() == second.get_xdata()[[0, 1, 3, 4]].tolist() == [1, 2, 2, 3]
    assert first.get_ydata()[[0, 1, 3, 4]].tolist() == pytest.approx([70, 50, 65, 50])


def test_means_leave_out_tasks_that_are_not_tested(run):
    """A second task that brings known classes again; the lines are those of the first."""
    run[1].accuracy[..., 1] = run[2].accuracy[..., 1] = torch.nan
    (axes,) = gap_overlay({"LwF": run}).axes
    assert axes.lines[0].get_ydata()[[0, 1, 3, 4]].tolist() == pytest.approx([70, 50, 60, 40])
    (axes,) = old_tasks_figure(run, "run").axes
    assert axes.lines[1].get_ydata()[[0, 1, 3, 4]].tolist() == pytest.approx([80, 60, 70, 50])
