"""Freezing: the backbone of the first task stays, statistics included; classifiers go on learning."""

import pytest
import torch

from cl_ac.approach import Batch
from cl_ac.approaches.freezing import Freezing
from cl_ac.errors import ConfigurationError
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.journal import Journal
from cl_ac.training import Training


def states_after_each_task(toy_run, monkeypatch, **options) -> list[dict[str, torch.Tensor]]:
    states, original = [], Journal.task

    def task(self, *args):
        original(self, *args)
        state = self.network.state_dict()
        states.append({name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)})

    monkeypatch.setattr(Journal, "task", task)
    toy_run(exits="sdn", **options)
    return states


@pytest.mark.parametrize("freeze_after", [0, 1])
def test_backbone_stays_as_it_was_weight_decay_and_statistics_included(toy_run, monkeypatch, freeze_after):
    training = Training(epochs=2, batch_size=8, momentum=0.9, weight_decay=0.1, schedule="constant")
    states = states_after_each_task(toy_run, monkeypatch, approach=Freezing(freeze_after), training=training)
    for earlier, later in ((0, 1), (1, 2)):
        same = [torch.equal(states[earlier][name], states[later][name]) for name in states[0] if "backbone" in name]
        assert all(same) == (later > freeze_after)


def test_classifiers_of_the_new_task_learn_and_with_exemplars_all(toy_network, toy_benchmark, toy_trainer):
    task = toy_benchmark()[1]
    batch = Batch(torch.randn(4, 1, 6, 6), torch.tensor([2, 3, 3, 2]), task)
    for exemplars in (False, True):
        network, approach = toy_network("sdn", (2, 2)).train(), Freezing()
        if exemplars:
            approach.memory.size = 8
            approach.memory.update(task.previous.train, torch.Generator(), network, toy_trainer)
        network.train_old_rows(approach.trains_old_rows)
        approach.loss(network, batch).sum().backward()
        assert all(parameter.grad is None for parameter in network.backbone.parameters())
        assert all(rows.grad is not None and rows.grad.any() for rows in network.new_rows)
        assert all((rows.grad is not None) == exemplars for head in network.heads for rows in head.old_rows)


def test_the_first_task_trains_the_backbone(toy_network, toy_benchmark):
    network = toy_network("sdn").train()
    batch = Batch(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 1, 0]), toy_benchmark()[0])
    Freezing().loss(network, batch).sum().backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters())
    assert network.backbone.training


def test_a_resumed_run_stays_frozen(toy_run, monkeypatch):
    original = Journal.epoch

    def stop(self, task, report):
        original(self, task, report)
        if task.index == 1 and report.epoch == 0:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(InterruptedError):
            toy_run(Freezing(), "stopped")
    directory = toy_run(Freezing(), "stopped", resume=True)
    whole = Checkpoint.load(toy_run(Freezing(), "whole").checkpoint_path).network
    resumed = Checkpoint.load(directory.checkpoint_path).network
    assert all(torch.equal(whole[name], resumed[name]) for name in whole if isinstance(whole[name], torch.Tensor))


def test_a_negative_task_is_refused():
    with pytest.raises(ConfigurationError, match="freeze_after is -1"):
        Freezing(-1)


def test_without_training_of_heads_nothing_is_learned_after_the_backbone(toy_benchmark):
    approach = Freezing(freeze_after=1, train_heads=False)
    assert [approach.training_set(task) is None for task in toy_benchmark().tasks] == [False, False, True]
