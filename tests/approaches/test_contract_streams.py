"""Every approach learns from any stream, or says before training what it cannot learn from."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.run import Journal
from cl_ac.settings.plugins import classes
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.streams.domain_incremental import RotatedImages
from cl_ac.streams.stream import Arrival, Stream
from cl_ac.training import Training

APPROACHES = classes("approach", Approach)
SHORT = {"ACIL": {"width": 16}, "RWalk": {"interval": 2}, "RanPAC": {"width": 16}, "SCR": {"replay": 8}}
ONE_PASS = Training(epochs=1, batch_size=4, lr=0.05, schedule="constant", iterations=2)
LIVE = [name for name, each in APPROACHES.items() if "live memory" in each.copes_with]


class Recurring(Stream):
    """Two of six classes, then other samples of these, then the other four with one of the old ones."""

    def arrivals(self, labels, seed):
        def part(classes: list[int], start: int) -> torch.Tensor:
            return torch.cat([(labels.targets == target).nonzero()[start::3, 0] for target in classes])

        return [Arrival(part([3, 1], 0)), Arrival(part([1, 3], 1)), Arrival(part([0, 2, 4, 5, 1], 2))]


def make(name: str) -> Approach:
    with global_stream(0, "approach"):
        return APPROACHES[name](**SHORT.get(name, {}))


@pytest.fixture
def streamed_run(toy_run, toy_benchmark):
    """Runs an approach, by name, on the toy benchmark with a stream and, where it needs one, a memory."""

    def go(name: str, stream: Stream, directory: str = "run", selection: str = "random", **options):
        benchmark = toy_benchmark()
        benchmark.stream = stream
        memory = Memory(12 if APPROACHES[name].memory_use == "required" else 0, selection=selection)
        return toy_run(make(name), directory, benchmark=benchmark, **{"exits": "sdn", **options}, memory=memory)

    return go


def runs_or_refuses(go: Callable, name: str, challenge: str, tmp_path):
    """The run's directory; None if it was refused in a sentence that names approach and challenge and left nothing."""
    if challenge in APPROACHES[name].copes_with:
        return go()
    said = rf"(?s)^(?!.*\n).*{name}.*`cl-ac approaches --copes_with '{re.escape(challenge)}'` lists those that do"
    with pytest.raises(ConfigurationError, match=said):
        go()
    assert not (tmp_path / "run").exists()
    return None


@pytest.mark.parametrize("name", APPROACHES)
def test_domains_are_learned_or_refused(streamed_run, tmp_path, name):
    directory = runs_or_refuses(lambda: streamed_run(name, RotatedImages()), name, "repeated classes", tmp_path)
    if directory is not None:
        outputs = directory.outputs(2)
        assert outputs.sizes == (6, 0, 0)
        assert outputs.logits.shape == (3, 90, 6), "heads do not grow"
        assert outputs.logits.isfinite().all()


@pytest.mark.parametrize("name", [name for name, each in APPROACHES.items() if "repeated classes" in each.copes_with])
def test_classes_come_again(streamed_run, name):
    directory = streamed_run(name, Recurring())
    outputs, record = directory.outputs(2), directory.records[-1]
    assert outputs.sizes == (2, 0, 4)
    assert outputs.logits.isfinite().all()
    assert len(outputs.targets) == 30, "each test sample once"
    assert [accuracy == accuracy for accuracy in record.most_confident] == [True, False, True]


@pytest.mark.parametrize("name", [name for name, each in APPROACHES.items() if each.memory_use == "required"])
def test_a_live_memory_is_used_or_refused(streamed_run, tmp_path, name):
    directory = runs_or_refuses(
        lambda: streamed_run(name, ClassIncremental(), selection="live", training=ONE_PASS),
        name, "live memory", tmp_path,
    )  # fmt: skip
    if directory is not None:
        memory = _state(directory)["memory.targets"]
        assert len(memory) == 12
        assert len(memory.unique()) > 3, "of several tasks"
        assert directory.outputs(2).logits.isfinite().all()


@pytest.mark.parametrize("name", APPROACHES)
def test_boundaries_are_needed_or_not(streamed_run, tmp_path, name):
    selection = "live" if APPROACHES[name].memory_use == "required" else "random"
    directory = runs_or_refuses(
        lambda: streamed_run(name, ClassIncremental(boundaries=False), selection=selection, training=ONE_PASS),
        name, "no boundaries", tmp_path,
    )  # fmt: skip
    if directory is not None:
        assert directory.outputs(2).sizes == (2, 2, 2)
        assert directory.outputs(2).logits.isfinite().all()


@pytest.mark.parametrize("name", LIVE)
def test_a_live_memory_draws_from_the_task_itself(streamed_run, monkeypatch, name):
    seen = []
    monkeypatch.setattr(
        APPROACHES[name],
        "loss",
        lambda self, network, batch, loss=APPROACHES[name].loss: (
            seen.append((batch.task.index, batch.replay[0].targets.tolist())) or loss(self, network, batch)
        ),
    )
    streamed_run(name, ClassIncremental(), selection="live", training=ONE_PASS)
    assert seen[0] == (0, [])
    assert any(task == 0 and drawn for task, drawn in seen), "in the first task too"
    assert any(task == 2 and set(drawn) & {4, 5} for task, drawn in seen)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stream", [ClassIncremental, Recurring, lambda: ClassIncremental(boundaries=False)])
@pytest.mark.parametrize("name", ["ER", "DERpp", "SCR"])
def test_resuming_with_a_live_memory_equals_an_uninterrupted_run(streamed_run, monkeypatch, name, stream):
    training = replace(ONE_PASS, epochs=2)
    settings = {"selection": "live", "training": training}
    whole = streamed_run(name, stream(), "whole", **settings)
    epoch, epochs = Journal.epoch, []

    def stop_after_three(self, task, report):
        epoch(self, task, report)
        epochs.append(report)
        if len(epochs) == 3:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop_after_three)
        with pytest.raises(Stopped):
            streamed_run(name, stream(), "stopped", **settings)
    resumed = streamed_run(name, stream(), "stopped", resume=True, **settings)
    assert torch.equal(whole.outputs(2).logits, resumed.outputs(2).logits)
    first, second = _state(whole), _state(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items() if isinstance(value, torch.Tensor))


def _state(directory) -> dict:
    checkpoint = Checkpoint.load(directory.checkpoint_path)
    return {**checkpoint.network, **checkpoint.approach}


def test_exemplars_that_the_end_of_a_task_would_choose_need_boundaries(streamed_run):
    with pytest.raises(ConfigurationError, match=r"memory\.selection is 'random', which chooses .* take 'live'"):
        streamed_run("ER", ClassIncremental(boundaries=False))


def test_classifiers_that_know_each_class_from_one_task_are_refused(streamed_run):
    from cl_ac.classifiers.fecam import FeCAM

    with pytest.raises(ConfigurationError, match="the classifier FeCAM takes each from one task alone"):
        streamed_run("ER", RotatedImages(), classifier=FeCAM())
