"""Steps through the compiler: one program for each task, the same numbers as without, and none where it fails."""

from dataclasses import replace

import pytest
import torch

from cl_ac import compatibility
from cl_ac.approaches.derpp import DERpp
from cl_ac.approaches.lwf import LwF
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.processes.group import Group
from cl_ac.recording.journal import Journal
from cl_ac.training import Training, compiling
from cl_ac.training.compiling import CompiledLoss, shapes_of

PLAIN = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, schedule="constant")
COMPILED = replace(PLAIN, compile=True)


@pytest.fixture
def programs(monkeypatch) -> list:
    """The programs that were traced; they run as PyTorch would run them without a compiler."""
    traced = []

    def backend(program, inputs):
        traced.append(program)
        return program.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return traced


@pytest.mark.parametrize(("approach", "memory"), [(LwF, 0), (DERpp, 12)])
def test_a_step_is_one_program_in_each_task_and_gives_the_same_numbers(toy_run, programs, approach, memory):
    plain = toy_run(approach(), "plain", "sdn", memory, training=PLAIN)
    assert not programs
    compiled = toy_run(approach(), "compiled", "sdn", memory, training=COMPILED)
    assert len(programs) == 3
    assert torch.equal(compiled.outputs(2).logits, plain.outputs(2).logits)


def test_resumed_after_an_epoch_it_gives_the_same_numbers(toy_run, programs, monkeypatch):
    whole = toy_run(LwF(), "whole", "sdn", training=COMPILED)
    epoch, passed = Journal.epoch, []

    def stop(self, task, report):
        epoch(self, task, report)
        passed.append(task)
        if len(passed) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            toy_run(LwF(), "stopped", "sdn", training=COMPILED)
    resumed = toy_run(LwF(), "stopped", "sdn", training=COMPILED, resume=True)
    assert torch.equal(resumed.outputs(2).logits, whole.outputs(2).logits)


def test_batches_of_other_shapes_are_not_compiled(toy_network, numbered_batch, programs):
    network, ran = toy_network(), []

    def loss(network, batch: Batch) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            ran.append(len(batch))
        return batch.images.mean() * torch.ones(1)

    compiled = CompiledLoss(loss)
    for numbers in ([1, 2], [3], [5, 6], [7, 8, 9]):
        assert compiled(network, numbered_batch(numbers, [0] * len(numbers), (2,))) == sum(numbers) / len(numbers)
    assert ran == [1, 3]
    assert len(programs) == 1


def test_one_program_serves_all_steps_of_a_loss_that_counts_them(toy_network, numbered_batch, programs):
    network = toy_network()
    compiled = CompiledLoss(lambda network, batch: batch.images.mean(1).sum() * batch.step / batch.steps + batch.epoch)
    for epoch in range(3):
        for step in range(4):
            batch = numbered_batch([2, 2], [0, 0], (2,), epoch=epoch, step=step, steps=4)
            assert compiled(network, batch).item() == 2 * 4 * 4 * 2 * step / 4 + epoch
    assert len(programs) == 1


def test_shapes_are_those_of_replay_and_views_too(numbered_batch):
    one, two = numbered_batch([0], [0], (2,)), numbered_batch([0, 0], [0, 0], (2,))
    batches = [one, two, replace(one, replay=(two,)), replace(one, views=(one.images,))]
    assert len({shapes_of(batch) for batch in batches}) == 4


def test_without_a_compiler_steps_run_as_they_are_and_one_warning_says_so(toy_run, monkeypatch):
    def fail(program, inputs):
        raise RuntimeError("no working C++ compiler found\nand more that nobody reads")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    with pytest.warns(UserWarning, match="run without compilation: no working C.. compiler found$") as told:
        compiled = toy_run(LwF(), "compiled", training=COMPILED)
    assert sum("without compilation" in str(each.message) for each in told) == 1
    assert torch.equal(compiled.outputs(2).logits, toy_run(LwF(), "plain", training=PLAIN).outputs(2).logits)


def test_compile_is_auto_true_or_false():
    with pytest.raises(ConfigurationError, match=r"training\.compile is 'always'"):
        Training(compile="always")


def test_devices_that_share_passes_do_not_compile_them(toy_run, monkeypatch):
    monkeypatch.setattr(compatibility, "current", lambda: Group(size=2))
    with pytest.raises(ConfigurationError, match=r"training\.compile is true, but 2 devices share the passes"):
        toy_run(LwF(), training=COMPILED)
