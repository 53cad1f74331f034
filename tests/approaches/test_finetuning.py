"""Fine-tuning: cross-entropy on the new classes, or on all once there are exemplars."""

import math

import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.memory import Memory

LOGITS = [[[0.5, -1.0, 2.0, 0.0], [1.5, 0.0, -0.5, 1.0]], [[0.0, 0.25, 1.0, -1.0], [2.0, 1.0, 0.0, 0.5]]]


def cross_entropy(row, target):
    return math.log(sum(math.exp(value) for value in row)) - row[target]


@pytest.mark.parametrize("exits", [1, 2])
def test_without_exemplars_the_softmax_runs_over_the_new_classes(exits, numbered_network, numbered_batch):
    logits = torch.tensor(LOGITS)[:exits].requires_grad_()
    loss = FineTuning().loss(numbered_network(logits), numbered_batch([0, 1], [2, 3], (2, 2)))
    expected = [(cross_entropy(rows[0][2:], 0) + cross_entropy(rows[1][2:], 1)) / 2 for rows in LOGITS[:exits]]
    torch.testing.assert_close(loss, torch.tensor(expected))
    loss.sum().backward()
    assert not logits.grad[..., :2].any()


def test_with_exemplars_it_runs_over_all(numbered_network, numbered_batch):
    approach = FineTuning()
    approach.memory = Memory(2)
    approach.memory.targets = torch.tensor([0, 1])
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)), numbered_batch([0, 1], [0, 3], (2, 2)))
    expected = [(cross_entropy(rows[0], 0) + cross_entropy(rows[1], 3)) / 2 for rows in LOGITS]
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_old_rows_learn_only_with_exemplars(toy_learn, toy_network, toy_benchmark):
    for size, moved in ((0, False), (6, True)):
        approach, network = FineTuning(), toy_network("sdn", ())
        approach.memory = Memory(size)
        tasks = toy_benchmark().tasks
        toy_learn(approach, network, tasks[:1])
        rows = [head.classifier.new_weight.detach().clone() for head in network.heads]
        assert len(approach.training_set(tasks[1]).samples) == len(tasks[1].train) + size
        toy_learn(approach, network, tasks[1:2])
        for head, row in zip(network.heads, rows, strict=True):
            assert torch.equal(head.classifier.old_weight, row) != moved
