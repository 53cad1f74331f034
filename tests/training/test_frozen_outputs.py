"""What frozen stages gave is kept, and changes no number."""

import errno
import os
from dataclasses import replace

import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.data import rows
from cl_ac.data.augmentation import Augmentation
from cl_ac.errors import StorageError
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.settings.plugins import classes
from cl_ac.training import FrozenOutputs, Training

APPROACHES = classes("approach", Approach)
TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, schedule="constant")
SHORT = {"ACIL": {"width": 16}, "BiC": {"bias_epochs": 2}, "PackNet": {"retrain_epochs": 1}}


@pytest.fixture
def ran(toy_run, toy_backbone, toy_benchmark):
    """Runs with stages frozen, and counts how many images passed through the first one."""

    def run(name: str, frozen: str, outputs: FrozenOutputs, run_name: str = "run", views: int = 0, **augmentation):
        backbone, benchmark, images = toy_backbone(), toy_benchmark(), []
        backbone.freeze(frozen)
        benchmark.augmentation = Augmentation(mean=(0.5,), std=(0.25,), **augmentation)
        backbone.stages[0].register_forward_hook(lambda module, inputs, output: images.append(len(output)))
        torch.manual_seed(0)
        approach, memory = APPROACHES[name](**SHORT.get(name, {})), 12 * (APPROACHES[name].memory_use == "required")
        training = replace(TRAINING, frozen_outputs=outputs, fixed_views=views, epochs=4 if views else 2)
        options = {"backbone": backbone, "benchmark": benchmark, "training": training}
        directory = toy_run(approach, run_name, "sdn", memory, **options)
        return Checkpoint.load(directory.checkpoint_path), directory.outputs(2).logits, sum(images)

    return run


@pytest.mark.parametrize("frozen", ["first", "all"])
@pytest.mark.parametrize("name", ["FineTuning", "LwF", "ER", "ACIL", "EWC", "BiC", "PackNet", "HAT", "MIR", "LwM"])
def test_a_run_ends_as_without(ran, name, frozen):
    kept, logits, few = ran(name, frozen, FrozenOutputs(), "kept")
    plain, expected, many = ran(name, frozen, FrozenOutputs(keep=False), "plain")
    assert torch.equal(logits, expected)
    for key, value in plain.network.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(kept.network[key], value), key
    assert few <= many


def test_each_image_passes_once(ran, toy_benchmark):
    _, _, few = ran("ACIL", "all", FrozenOutputs())
    tasks = toy_benchmark().tasks
    distinct = sum(len(task.train) + len(task.test) for task in tasks)
    # What shapes and costs are measured with comes on top.
    assert distinct <= few <= distinct + 10


def test_images_that_change_at_random_are_not_kept(ran):
    _, _, still = ran("FineTuning", "all", FrozenOutputs(), "still")
    _, random, changing = ran("FineTuning", "all", FrozenOutputs(), "changing", crop="shift", padding=1)
    _, expected, _ = ran("FineTuning", "all", FrozenOutputs(keep=False), "plain", crop="shift", padding=1)
    assert torch.equal(random, expected)
    assert changing > still


def test_fixed_views_are_kept(ran, toy_benchmark):
    options = {"views": 2, "crop": "shift", "padding": 1, "flip": True}
    _, logits, few = ran("ER", "all", FrozenOutputs(), "kept", **options)
    _, expected, many = ran("ER", "all", FrozenOutputs(keep=False), "plain", **options)
    assert torch.equal(logits, expected)
    _, others, _ = ran("ER", "all", FrozenOutputs(), "anew", **{**options, "views": 0})
    assert not torch.equal(logits, others)
    assert few < many


def test_files_take_what_memory_does_not(ran, tmp_path):
    _, expected, _ = ran("ER", "first", FrozenOutputs(keep=False), "plain")
    _, logits, _ = ran("ER", "first", FrozenOutputs(memory=0, folder=str(tmp_path / "kept")), "files")
    assert torch.equal(logits, expected)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_elsewhere(toy_run, toy_backbone, tmp_path, monkeypatch):
    backbone, allowed = toy_backbone(), 5
    backbone.freeze("all")

    def refuse(*_):
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(errno.ENOSPC, "")

    def run(backbone, outputs, name="run", **options):
        settings = {"backbone": backbone, "training": replace(TRAINING, frozen_outputs=outputs), **options}
        return toy_run(APPROACHES["FineTuning"](), name, "sdn", **settings)

    in_files = FrozenOutputs(memory=0, folder=str(tmp_path / "kept"))
    # Room for the test images of the first task, not for those of the second.
    monkeypatch.setattr(rows, "FIRST", 12)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(
            StorageError, match=r"kept in '.*kept' \(No space left on device, .* MiB needed\); name"
        ) as full:
            run(backbone, in_files)
    assert "\n" not in str(full.value)
    same = toy_backbone()
    same.freeze("all")
    resumed = run(same, FrozenOutputs(), resume=True)
    other = toy_backbone()
    other.freeze("all")
    assert torch.equal(resumed.outputs(2).logits, run(other, FrozenOutputs(), "whole").outputs(2).logits)
