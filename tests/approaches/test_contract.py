"""What every approach promises, whatever it computes."""

import copy

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import exit_accuracy
from cl_ac.generators import VAE
from cl_ac.network import Exits
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import Journal
from cl_ac.settings.plugins import classes
from cl_ac.watching.watch import Watch

APPROACHES = classes("approach", Approach)

# Stages beside the main one, cut short: how long they last changes no promise.
SHORT = {
    "ACIL": {"width": 16},
    "BiC": {"bias_epochs": 2},
    "CODAPrompt": {"components": 2, "blocks": (0, 2)},
    "DSAL": {"width": 16},
    "DualPrompt": {"general_blocks": (0,), "expert_blocks": (1, 2)},
    "DyER": {"classifier_epochs": 2},
    "EEIL": {"balanced_epochs": 1},
    "FOSTER": {"compression_epochs": 2},
    "PODNet": {"balanced_epochs": 1},
    "PackNet": {"retrain_epochs": 1},
    "OrthogonalPackNet": {"tasks": 3},
    "RWalk": {"interval": 2},
    "RanPAC": {"width": 16},
    "XDER": {"classes": 7},
    "XDERCE": {"classes": 7},
    "XDERRPC": {"classes": 7},
    "SCR": {"replay": 8},
    "GenerativeReplay": {"generator": VAE(2, 8)},
    "InternalReplay": {"generator": VAE(2, 8)},
    "ProgressiveLatentReplay": {"generator": VAE(2, 8), "frequencies": "basic"},
    "BrainInspiredReplay": {"latent": 2, "width": 8},
}


def make(name: str) -> Approach:
    with global_stream(0, "approach"):
        return APPROACHES[name](**copy.deepcopy(SHORT.get(name, {})))


def memory_for(name: str) -> int:
    return 12 if APPROACHES[name].memory_use == "required" else 0


def final_state(directory) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.load(directory.checkpoint_path)
    return {**checkpoint.network, **{f"approach.{name}": value for name, value in checkpoint.approach.items()}}


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        else:
            assert value == second[name], name


# All tests of one approach come one after the other, and share its plain run and the one with ACs.
@pytest.fixture(scope="module", params=APPROACHES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def plain(shared_toy_run, name) -> RunDirectory:
    return shared_toy_run(make(name), f"{name}, plain", Exits([], []), memory_for(name))


@pytest.fixture(scope="module")
def with_acs(shared_toy_run, name) -> RunDirectory:
    return shared_toy_run(make(name), f"{name}, with ACs", "sdn", memory_for(name))


def test_learns_every_task_with_any_number_of_exits(plain, with_acs):
    for directory, count in ((plain, 1), (with_acs, 3)):
        records = directory.records
        assert [record.task for record in records] == [0, 1, 2]
        assert [len(exits) for exits in records[-1].exits] == [count] * 3
        assert directory.outputs(2).logits.isfinite().all()


def test_zero_ac_weights_end_as_the_run_without_acs(plain, toy_run, name):
    silent = toy_run(make(name), "silent", Exits(["first", "second"], [0.0, 0.0]), memory_for(name))
    assert torch.equal(plain.outputs(2).logits[-1], silent.outputs(2).logits[-1])


def test_same_seed_same_numbers_and_another_seed_others(with_acs, toy_run, name):
    second, other = (toy_run(make(name), f"run{seed}", "sdn", memory_for(name), seed=seed) for seed in (0, 1))
    assert_equal(final_state(with_acs), final_state(second))
    assert not torch.equal(with_acs.outputs(2).logits, other.outputs(2).logits)


def test_a_task_is_watched_from_where_the_one_before_ended(toy_run, name):
    approach = make(name)
    # What is watched are the linear heads.
    approach.inference_classifier = lambda: None
    directory = toy_run(approach, "run", "sdn", memory_for(name), watch=Watch(4))
    for before, watched in enumerate(directory.watched_all()[1:]):
        accuracy = exit_accuracy(directory.outputs(before)).T.float()
        torch.testing.assert_close(watched.accuracy[0, : len(accuracy), :-1], accuracy)
        assert watched.steps[0] == 0


class Stopped(Exception):
    pass


# In the middle of the first task, between two tasks, in the middle of the last task.
@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_resuming_after_any_epoch_equals_an_uninterrupted_run(with_acs, toy_run, monkeypatch, name, stop_after):
    memory = memory_for(name)
    epochs = 0
    epoch, untrained = Journal.epoch, Journal.untrained

    def stop(passed):
        nonlocal epochs
        epochs += passed
        if epochs >= stop_after:
            raise Stopped

    def stop_after_epoch(self, task, report):
        epoch(self, task, report)
        stop(1)

    def stop_untrained(self, watched):
        untrained(self, watched)
        stop(2)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop_after_epoch)
        patch.setattr(Journal, "untrained", stop_untrained)
        with pytest.raises(Stopped):
            toy_run(make(name), "stopped", "sdn", memory)
    resumed = toy_run(make(name), "stopped", "sdn", memory, resume=True)
    assert_equal(final_state(with_acs), final_state(resumed))
    assert torch.equal(with_acs.outputs(2).logits, resumed.outputs(2).logits)


@pytest.mark.parametrize("frozen", ["first", "all"])
def test_frozen_stages_stay_as_they_are(toy_run, toy_backbone, name, frozen):
    approach = make(name)
    backbone = toy_backbone(approach=approach)
    backbone.freeze(frozen)
    stages = backbone.stages[: 1 if frozen == "first" else 3]
    if (name, frozen) == ("SSRE", "all"):
        # All that it would move are adapters beside convolutions that are not frozen.
        with pytest.raises(ConfigurationError, match="not wholly frozen"):
            toy_run(approach, "run", "sdn", memory_for(name), backbone=backbone)
        return
    before = [(value, value.clone()) for value in stages.state_dict(keep_vars=True).values()]
    directory = toy_run(approach, "run", "sdn", memory_for(name), backbone=backbone)
    assert [record.task for record in directory.records] == [0, 1, 2]
    assert all(torch.equal(value, kept) for value, kept in before)
