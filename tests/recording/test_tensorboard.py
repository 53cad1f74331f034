import re
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from cl_ac.approach import Approach
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.losses import cross_entropy
from cl_ac.recording.tensorboard import (
    DASHBOARD,
    METRICS,
    WHILE_LEARNED,
    EventLog,
    dashboard,
    has_images,
    shown_tasks,
    task_confusion,
)
from cl_ac.training import EpochReport
from cl_ac.watching.watch import Watch


class Plain(Approach):
    """Fine-tuning."""

    def loss(self, network, batch):
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)


def read(directory) -> EventAccumulator:
    return EventAccumulator(str(directory.path)).Reload()


def layout(events: EventAccumulator) -> dict[str, list[str]]:
    """The patterns of each chart that TensorBoard would show."""
    last = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    categories = layout_pb2.Layout.FromString(last).category
    return {f"{c.title}: {chart.title}": list(chart.multiline.tag) for c in categories for chart in c.chart}


@pytest.mark.parametrize("watching", [False, True])
def test_every_chart_of_a_finished_run_has_data(toy_run, watching):
    watch = Watch(every=2, nearest_mean="oracle", drift=True) if watching else Watch()
    directory = toy_run(Plain(), exits="sdn", watch=watch, loggers=["tensorboard"])
    events = read(directory)
    tags = events.Tags()["scalars"]
    charts = layout(events)
    assert charts
    for patterns in charts.values():
        assert all(any(re.match(pattern, tag) for tag in tags) for pattern in patterns)
    questions = [f"{category}: {title}" for category, titles in DASHBOARD.items() for title in titles]
    left_out = {"Training: validation accuracy"}
    if not watching:
        left_out |= {question for question in questions if question.startswith("While")}
        left_out |= {question for question in questions if "while later ones are learned" in question}
        titles = DASHBOARD["After each task"].items()
        left_out |= {f"After each task: {title}" for title, tags in titles if "drift/" in tags[0]}
    assert list(charts) == [question for question in questions if question not in left_out]
    assert set(METRICS) <= set(tags)
    for tag in tags:
        steps = [event.step for event in events.Scalars(tag)]
        # On the axis of tasks a task ends where the next one begins, where other tasks are the earlier ones.
        assert steps == sorted(steps if tag.startswith("by_task/watch/") else set(steps)), tag


def test_drift_is_told_after_each_task(toy_run):
    directory = toy_run(Plain(), exits="sdn", watch=Watch(drift=True), loggers=["tensorboard"])
    events, drift = read(directory), directory.drift()
    learned = [event.value for event in events.Scalars("drift/cka_with_learned/task_0/exit_0")]
    assert learned == pytest.approx(drift.since_learned[:, 0, 0].tolist())
    norms = [event.value for event in events.Scalars("drift/weight_norm/task_1/final")]
    assert norms == pytest.approx(drift.weights[1:, -1, 1].tolist())
    assert "drift/cka_with_previous/task_2/final" not in events.Tags()["scalars"], "the newest task has no before"


def test_images_after_each_task(toy_run):
    events = read(toy_run(Plain(), exits="sdn", loggers=["tensorboard"]))
    images = {"accuracy_matrix/final", "accuracy_matrix/most_confident", "confusion_by_task/final"}
    assert set(events.Tags()["images"]) == {*images, "confusion_by_task/most_confident", "cost_accuracy"}
    assert len(events.Images("cost_accuracy")) == 3


def test_tasks_that_are_not_tested_do_not_count_among_the_earlier_ones(stored_run, tmp_path):
    directory = stored_run(tmp_path / "run", exits=2, watch=True)
    log, watched = EventLog(directory, 2, 3), directory.watched(2)
    watched.accuracy[:, :, 1] = torch.nan
    log.watched(watched, 0)
    log.close()
    place = watched.answers.index("final")
    earlier = [event.value for event in read(directory).Scalars("watch/accuracy/earlier_tasks/final")]
    assert earlier == pytest.approx(watched.accuracy[1:, place, 0].tolist())


def test_watched_points_stand_at_the_steps_of_the_run(stored_run, tmp_path):
    directory = stored_run(tmp_path / "run", exits=2, watch=True)
    log = EventLog(directory, 2, 3)
    for watched in directory.watched_all():
        log.watched(watched.until(4), 0)
        log.watched(watched, 3)
    log.close()
    events = read(directory)
    first = events.Scalars("watch/accuracy/task_0/final")
    # A task's point before its first step is at the last step of the task before.
    assert [event.step for event in first] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    later = directory.watched(2)
    place = later.answers.index("nearest_mean/exit_0")
    earlier = [event.value for event in events.Scalars("watch/accuracy/earlier_tasks/nearest_mean/exit_0")][-5:]
    assert earlier == pytest.approx(later.accuracy[1:, place, :2].mean(-1).tolist())
    biases = [event.value for event in events.Scalars("watch/recency_bias/final")][-5:]
    assert biases == pytest.approx(later.predicted_task[1:, 1, :2, 2].mean(-1).tolist())
    begun = {event.step: event.value for event in events.Scalars("watch/tasks_begun")}
    assert (begun[10], begun[12], begun[30]) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
    tags = events.Tags()["scalars"]
    assert "watch/accuracy/task_0/exit_0" in tags
    assert "watch/accuracy/task_1/exit_0" not in tags


def test_loggers_are_told_the_same(stored_run, tmp_path):
    directory = stored_run(tmp_path / "run", exits=2)
    log = EventLog(directory, 2, 3, loggers=["tensorboard", "csv"])
    report = EpochReport(0, 1, torch.tensor([0.5, 0.25]), 0.1, None, 0.75, 1.0, 5, {})
    log.epoch(report, 5)
    log.epoch(replace(report, validation=None, gradient_norm=2.0), 10)
    log.close()
    rows = (directory.path / "scalars.csv").read_text().splitlines()[1:]
    assert rows == [
        "5,train/loss/exit_0,0.5", "5,train/loss/final,0.25", "5,train/learning_rate,0.1",
        "5,validation/accuracy,0.75",
        "10,train/loss/exit_0,0.5", "10,train/loss/final,0.25", "10,train/learning_rate,0.1",
        "10,train/gradient_norm,2",
    ]  # fmt: skip
    events = read(directory)
    told = [f"{e.step},{tag},{e.value:.6g}" for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    assert sorted(told) == sorted(rows)


def test_figures_are_drawn_for_those_who_show_them_alone(toy_run, monkeypatch):
    def draw(*_):
        raise AssertionError

    monkeypatch.setattr("cl_ac.recording.figures.accuracy_matrix_figure", draw)
    assert toy_run(Plain(), name="csv", loggers=["csv"]).records
    with pytest.raises(AssertionError):
        toy_run(Plain(), name="tensorboard", loggers=["tensorboard"])


def test_charts_without_data_are_left_out():
    assert dashboard(set()) == {}
    assert dashboard({"watch/tasks_begun"}) == {}
    # Without nearest means there is nothing to compare linear heads with.
    earlier, compared = "watch/accuracy/earlier_tasks", "earlier tasks, linear against nearest mean"
    assert compared not in dashboard({f"{earlier}/final", "watch/tasks_begun"})[WHILE_LEARNED]
    assert len(dashboard({f"{earlier}/final", f"{earlier}/nearest_mean/final"})[WHILE_LEARNED][compared][1]) == 2
    charts = dashboard({"train/loss/final", "accuracy/task_1/final"})
    assert charts == {
        "After each task": {"accuracy on each task, final exit": ["Multiline", [r"accuracy/task_\d+/final$"]]},
        "Training": {"loss of each exit, before it is weighted": ["Multiline", ["train/loss/"]]},
    }


def test_task_confusion_by_hand():
    targets = torch.tensor([0, 1, 2, 2])
    outputs = Outputs(torch.zeros(1, 4, 3), targets, torch.tensor([0, 0, 1, 1]), (2, 1), ExitCosts([1.0], 1.0))
    confusion = task_confusion(outputs, torch.tensor([1, 2, 2, 2]))
    assert confusion.tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_a_chart_shows_few_of_many_curves():
    tags = {f"accuracy/task_{task}/final" for task in range(20)} | {"accuracy/task_3/exit_0"}
    charts = dashboard(tags)["After each task"]
    _, patterns = charts["accuracy on each task, final exit (8 of 20)"]
    shown = [tag for pattern in patterns for tag in tags if re.match(pattern, tag)]
    assert [int(re.search(r"task_(\d+)", tag)[1]) for tag in shown] == [0, 3, 5, 8, 11, 14, 16, 19]
    watched = {f"watch/{tag}" for tag in tags} | {"watch/tasks_begun"}
    charts = dashboard(watched)[WHILE_LEARNED]
    assert len(charts["accuracy on each task, final exit (8 of 20)"][1]) == 9, "the stairs stay"


def test_runs_line_up_by_task(toy_run, toy_benchmark):
    directory = toy_run(Plain(), exits="sdn", watch=Watch(every=2), loggers=["tensorboard"])
    events = read(directory)
    averages = events.Scalars("by_task/accuracy/average/final")
    assert [event.step for event in averages] == [100, 200, 300]
    assert [e.value for e in averages] == [e.value for e in events.Scalars("accuracy/average/final")]
    assert [event.step for event in events.Scalars("by_task/forgetting/most_confident")] == [200, 300]
    earlier = events.Scalars("by_task/watch/accuracy/earlier_tasks/final")
    steps = [event.step for event in earlier]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1], steps.count(200)) == (100, 300, 2)
    second = directory.watched(1)
    place = second.answers.index("final")
    assert earlier[0].value == pytest.approx(second.accuracy[0, place, 0].item())
    # A resumed run that comes to the end of a task again leaves what is there.
    tasks = toy_benchmark().tasks
    log = EventLog(directory, 3, 3, step=1)
    log.task(tasks[2], directory, 10_000)
    log.close()
    assert [event.step for event in read(directory).Scalars("by_task/forgetting/most_confident")] == [200, 300]


def test_of_very_many_tasks_some_have_curves_and_images_become_rare():
    assert list(shown_tasks(7)) == list(range(7))
    assert list(shown_tasks(1000))[:3] == [0, 10, 20]
    assert len(shown_tasks(100)) == len(shown_tasks(1000)) == 100
    assert all(has_images(finished, 30) for finished in range(1, 31))
    drawn = [finished for finished in range(1, 1000) if has_images(finished, 999)]
    assert drawn[37:42] == [38, 39, 40, 42, 44]
    assert drawn[-1] == 999
    assert len(drawn) < 140
