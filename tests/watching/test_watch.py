"""Watching: when, at what, that it leaves no trace, and that a stopped run sees the same."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from cl_ac.approaches.bic import BiC
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.freezing import Freezing
from cl_ac.approaches.lwf import LwF
from cl_ac.approaches.si import SI
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.errors import ConfigurationError, ResumeError
from cl_ac.evaluation import ac_accuracy, exit_accuracy
from cl_ac.memory import Memory
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.journal import Journal
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.tensorboard import EventLog
from cl_ac.run import run
from cl_ac.training import EpochReport, HeadWarmup, Training
from cl_ac.watching.watch import Watch, Watcher, balanced, due, shares, tally

TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, schedule="constant")


def report(steps: int) -> EpochReport:
    """Of the first of two epochs."""
    return EpochReport(0, 2, torch.zeros(1), 0.1, None, None, 1.0, steps, {})


def test_points_are_dense_at_first_and_regular_later():
    assert [step for step in range(31) if due(step, 10)] == [0, 1, 2, 4, 8, 10, 20, 30]
    assert [step for step in range(5) if due(step, 1)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"every": -1}, "watch.every is -1"),
        ({"every": 1, "samples": -2}, "watch.samples is -2"),
        ({"samples": 5}, "watch.samples is 5, but watch.every is 0"),
        ({"nearest_mean": "oracle"}, "watch.nearest_mean is oracle, but watch.every is 0"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(ConfigurationError, match=named):
        Watch(**settings)


def test_what_cannot_be_watched_is_said_before_training(toy_run, toy_benchmark):
    with pytest.raises(ConfigurationError, match="nothing to watch"):
        toy_run(FineTuning(), benchmark=toy_benchmark(validation=0.0), watch=Watch(every=1, data="validation"))
    with pytest.raises(ConfigurationError, match="there is no memory: set"):
        toy_run(FineTuning(), watch=Watch(every=1, nearest_mean="exemplars"))
    with pytest.raises(ConfigurationError, match=r"watch\.samples is 2 .* task 1 of 3 has no image to watch"):
        toy_run(FineTuning(), watch=Watch(every=1, samples=2))


@given(st.integers(0, 500), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_shares_are_proportional_and_sum_up(samples, counts):
    parts = shares(samples, counts)
    assert sum(parts) == min(samples or sum(counts), sum(counts))
    assert all(part <= count for part, count in zip(parts, counts, strict=True))
    assert all(abs(part - sum(parts) * count / sum(counts)) < 1 for part, count in zip(parts, counts, strict=True))


def test_a_share_is_balanced_over_classes():
    targets = torch.tensor([0] * 20 + [1] * 3 + [2] * 20)
    chosen = balanced(targets, 15, torch.Generator().manual_seed(0))
    assert targets[chosen].bincount().tolist() == [6, 3, 6]
    assert len(chosen.unique()) == 15
    assert not torch.equal(chosen, balanced(targets, 15, torch.Generator().manual_seed(1)))


def test_nothing_can_be_taken_for_a_task_without_new_classes():
    membership = torch.tensor([[1.0, 0], [1, 0]])
    result = tally(
        torch.tensor([[0, 1, 1]]), torch.tensor([0, 1, 0]), torch.tensor([[1.0, 0], [1, 0], [0, 1]]), membership
    )
    assert result[0, :, 0].tolist() == [1, 1]
    assert result[0, :, 1].isnan().all()
    assert result[0, :, 2].tolist() == [1, 0]


def test_tally_counts_tasks_and_hits():
    targets = torch.tensor([0, 1, 1, 2])  # tasks 0, 0, 0, 1
    predictions = torch.tensor([[0, 0, 2, 2], [1, 1, 1, 0]])
    membership = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    result = tally(predictions, targets, membership[targets], membership)
    assert torch.allclose(result[0], torch.tensor([[2 / 3, 1 / 3, 1 / 3], [0, 1, 1]]))
    assert torch.allclose(result[1], torch.tensor([[1, 0, 2 / 3], [1, 0, 0]]))


@pytest.fixture
def dropout_run(toy_benchmark, toy_backbone, tmp_path, monkeypatch):
    """Runs an approach on a network with batch norm and dropout."""
    # Drawing TensorBoard's figures would take most of the time of so small runs.
    monkeypatch.setattr(EventLog, "task", lambda *_: None)

    def make(approach, name: str, watch: Watch = Watch(), memory: int = 0, **options) -> RunDirectory:
        backbone, directory = toy_backbone(), RunDirectory(tmp_path / name)
        backbone.stages[1].append(nn.Dropout(0.3))
        settings = {"training": TRAINING, "exits": "sdn", "console": Console(quiet=True), **options}
        run(
            approach, toy_benchmark(), backbone, directory, memory=Memory(memory), watch=watch, device="cpu", **settings
        )
        return directory

    return make


def final_state(directory: RunDirectory) -> dict[str, torch.Tensor]:
    """Every tensor of network and approach at the end of a run."""
    checkpoint = Checkpoint.load(directory.checkpoint_path)
    named = [*checkpoint.network.items(), *((f"approach.{name}", v) for name, v in checkpoint.approach.items())]
    return {name: value for name, value in named if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(("make", "memory"), [(LwF, 12), (partial(BiC, bias_epochs=2), 12), (SI, 0), (Freezing, 0)])
def test_watching_leaves_no_trace(dropout_run, make, memory):
    plain = dropout_run(make(), "plain", memory=memory)
    nearest_mean = "exemplars" if memory else "oracle"
    watched = dropout_run(make(), "watched", Watch(2, nearest_mean=nearest_mean, drift=True), memory)
    before, after = final_state(plain), final_state(watched)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(plain.outputs(task).logits, watched.outputs(task).logits) for task in range(3))
    assert len(watched.watched_all()) == 3
    assert plain.watched_all() == []


@pytest.mark.parametrize("watch", [Watch(3, samples=9), Watch(3, data="validation")])
def test_points_stand_where_they_should(dropout_run, watch):
    directory = dropout_run(FineTuning(), "run", watch)
    steps = Checkpoint.load(directory.checkpoint_path).steps // 3
    for task, watched in enumerate(directory.watched_all()):
        expected = [step for step in range(steps + 1) if due(step, 3) or step == steps]
        assert watched.steps.tolist() == expected
        assert (watched.task, watched.start) == (task, task * steps)
        assert watched.answers == ["exit_0", "exit_1", "final", "most_confident"]
        assert watched.accuracy.shape == (len(expected), 4, task + 1)
        assert torch.allclose(watched.predicted_task.sum(-1), torch.ones(()))


def test_the_last_point_is_what_the_test_data_say(dropout_run, monkeypatch):
    monkeypatch.setattr("cl_ac.watching.watch.BATCH_ON_CPU", 4)
    directory = dropout_run(LwF(), "run", Watch(4))
    for task, watched in enumerate(directory.watched_all()):
        outputs = directory.outputs(task)
        assert torch.allclose(watched.accuracy[-1, :3].T.double(), exit_accuracy(outputs))
        assert torch.allclose(watched.accuracy[-1, 3].double(), ac_accuracy(outputs))


def test_nearest_means_end_where_the_classifier_ends(dropout_run, monkeypatch):
    """With every training image of new classes and every exemplar of old ones, the two are the same computation."""
    monkeypatch.setattr("cl_ac.watching.watch.BATCH_ON_CPU", 4)
    watch = Watch(4, nearest_mean="exemplars", prototype_samples=0)
    directory = dropout_run(FineTuning(), "run", watch, memory=12, classifier=NearestMean(pooling="max", side=2))
    # Exemplars are chosen anew between a task's last point and its end: only the first task has the same.
    watched = directory.watched(0)
    assert watched.answers[4:] == ["nearest_mean/exit_0", "nearest_mean/exit_1", "nearest_mean/final"]
    assert torch.allclose(watched.accuracy[-1, 4:].T.double(), exit_accuracy(directory.outputs(0)))


def test_a_class_without_prototypes_is_never_named(toy_network, toy_trainer, toy_benchmark):
    """An empty mean has the cosine 0, which would beat negative ones."""
    tasks, approach, network = toy_benchmark(), FineTuning(), toy_network(sizes=(2, 2))
    watcher = Watcher(Watch(1, nearest_mean="exemplars"), network, approach, toy_trainer, tasks.tasks)
    with torch.no_grad():
        network.backbone.stages[1][1].bias.fill_(-1)
        network.backbone.stages[1][2] = nn.Identity()
    watcher.begin(tasks[1], 0)
    seen = watcher.end_epoch(report(steps=1))[0]
    assert (seen.predicted_task[:, 2, :, 0] == 0).all()


def test_oracle_means_know_old_classes_from_their_own_data(toy_network, toy_trainer, toy_benchmark):
    tasks, network = toy_benchmark(), toy_network(sizes=(2, 2))
    watcher = Watcher(Watch(1, nearest_mean="oracle", prototype_samples=3), network, FineTuning(), toy_trainer, tasks)
    watcher.begin(tasks[1], 0)
    assert watcher.prototypes.targets.bincount().tolist() == [3] * 4
    assert {tuple(image.flatten().tolist()) for image in watcher.prototypes.images} <= {
        tuple(image.flatten().tolist()) for task in tasks[:2] for image in task.train.images
    }


def test_a_task_is_always_watched_on_the_same_images(toy_network, toy_trainer, toy_benchmark):
    tasks, network = toy_benchmark(), toy_network(sizes=(2,))
    watcher = Watcher(Watch(1, samples=12), network, FineTuning(), toy_trainer, tasks.tasks)
    watcher.begin(tasks[0], 0)
    first = watcher.samples.images
    network.grow(2, 0)
    watcher.begin(tasks[1], 5)
    assert len(first) == 4
    assert torch.equal(watcher.samples.images[:4], first)


def test_each_part_of_the_network_keeps_its_mode(toy_network, toy_trainer, toy_benchmark):
    tasks, network = toy_benchmark(), toy_network().train()
    network.backbone.stages[0].eval()
    before = {name: module.training for name, module in network.named_modules()}
    Watcher(Watch(1), network, FineTuning(), toy_trainer, tasks.tasks).begin(tasks[0], 0)
    assert {name: module.training for name, module in network.named_modules()} == before


def test_looks_may_be_less_precise_than_training(toy_network, toy_trainer, toy_benchmark):
    tasks, dtypes = toy_benchmark(), []
    network = toy_network()
    network.backbone.stages[0][0].register_forward_hook(lambda _, inputs, output: dtypes.append(output.dtype))
    for watch in (Watch(1), Watch(1, precision="bfloat16")):
        Watcher(watch, network, FineTuning(), toy_trainer, tasks.tasks).begin(tasks[0], 0)
    assert dtypes == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("stopped_at", [(0, 0), (1, 1), (2, 0)])
def test_a_resumed_run_saw_the_same(dropout_run, monkeypatch, stopped_at):
    watch = Watch(3, samples=9, nearest_mean="exemplars", drift=True)
    training = replace(TRAINING, head_warmup=HeadWarmup(epochs=1))
    whole = dropout_run(FineTuning(), "whole", watch, 12, training=training)
    original = Journal._save

    def stop(self, task, steps, fit):
        # Killed with the points of the epoch on disk, but not its checkpoint.
        if (task, fit and fit["epoch"] - 1) == stopped_at:
            raise InterruptedError
        original(self, task, steps, fit)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_save", stop)
        with pytest.raises(InterruptedError):
            dropout_run(FineTuning(), "stopped", watch, 12, training=training)
    resumed = dropout_run(FineTuning(), "stopped", watch, 12, training=training, resume=True)
    for expected, seen in zip(whole.watched_all(), resumed.watched_all(), strict=True):
        assert (seen.task, seen.start, seen.answers) == (expected.task, expected.start, expected.answers)
        assert torch.equal(seen.steps, expected.steps)
        assert torch.equal(seen.accuracy, expected.accuracy)
        assert torch.equal(seen.predicted_task, expected.predicted_task)
    for name, value in vars(whole.drift()).items():
        assert torch.equal(value.nan_to_num(-1), getattr(resumed.drift(), name).nan_to_num(-1))


def test_going_on_without_the_points_so_far_is_refused(toy_network, toy_trainer, toy_benchmark):
    tasks = toy_benchmark().tasks
    watcher = Watcher(Watch(1), toy_network(), FineTuning(), toy_trainer, tasks)
    with pytest.raises(ResumeError, match="watched points of task 1 are missing"):
        watcher.resume(tasks[0], None, 4)
