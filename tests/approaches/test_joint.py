"""Joint training: all data so far, all classes, all rows."""

import math

import torch

from cl_ac.approaches.joint import Joint


def test_trains_on_every_task_so_far(toy_benchmark):
    tasks = toy_benchmark().tasks
    data = Joint().training_set(tasks[2])
    assert len(data.samples) == sum(len(task.train) for task in tasks)
    assert data.samples.targets.unique().tolist() == list(range(6))


def test_loss_is_cross_entropy_over_all_classes(numbered_network, numbered_batch):
    row = [0.5, -1.0, 2.0, 0.0]
    loss = Joint().loss(numbered_network(torch.tensor([[row]])), numbered_batch([0], [1], (2, 2)))
    expected = math.log(sum(math.exp(value) for value in row)) - row[1]
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_old_rows_learn(toy_learn, toy_network, toy_benchmark):
    approach, network = Joint(), toy_network("sdn", ())
    tasks = toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    rows = [head.classifier.new_weight.detach().clone() for head in network.heads]
    toy_learn(approach, network, tasks[1:2])
    assert not any(torch.equal(head.classifier.old_weight, row) for head, row in zip(network.heads, rows, strict=True))
