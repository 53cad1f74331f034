"""LwF: cross-entropy on the new classes and distillation on the old ones, in each of its forms."""

import math

import pytest
import torch

from cl_ac.approaches.lwf import LwF
from cl_ac.memory import Memory
from cl_ac.training import Fit

# [E = 2, N = 3, C = 5] of tasks with two, one and two classes.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(3)] for e in range(2)]
OLD = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(3)] for n in range(3)] for e in range(2)]
TARGETS = [4, 3, 4]
SIZES = (2, 1, 2)


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def taskwise(old, new):
    p, q = softmax(old[:2], 2), softmax(new[:2], 2)  # the task with a single class adds nothing
    return 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def over_all(old, new):
    return -sum(a * math.log(b) for a, b in zip(softmax(old, 2), softmax(new[:3], 2), strict=True))


def multilabel(old, new):
    p = [1 / (1 + math.exp(-value)) for value in old]
    q = [1 / (1 + math.exp(-value)) for value in new[:3]]
    return -sum(a * math.log(b) + (1 - a) * math.log(1 - b) for a, b in zip(p, q, strict=True))


FORMS = {"taskwise": taskwise, "global": over_all, "multilabel": multilabel}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("exits", [1, 2])
@pytest.mark.parametrize("with_memory", [False, True])
def test_loss_by_hand(kind, exits, with_memory, numbered_network, numbered_batch):
    approach = LwF(strength=0.5, distillation=kind)
    if with_memory:
        approach.memory = Memory(2)
        approach.memory.targets = torch.tensor([0, 1])
    approach.teacher.forward = numbered_network(torch.tensor(OLD)[:exits])
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)[:exits]), numbered_batch([0, 1, 2], TARGETS, SIZES))
    first = 0 if with_memory else 3
    expected = [
        sum(
            -math.log(softmax(new[first:])[y - first]) + 0.5 * FORMS[kind](old, new)
            for new, old, y in zip(LOGITS[e], OLD[e], TARGETS, strict=True)
        )
        / 3
        for e in range(exits)
    ]
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_the_first_task_is_plain_cross_entropy(numbered_network, numbered_batch):
    loss = LwF().loss(numbered_network(torch.tensor(LOGITS)), numbered_batch([0, 1], [1, 0], (5,)))
    expected = [sum(-math.log(softmax(LOGITS[e][n])[y]) for n, y in ((0, 1), (1, 0))) / 2 for e in range(2)]
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_teacher_is_the_network_after_the_task(toy_learn, toy_network, toy_benchmark, toy_trainer):
    approach, network = LwF(), toy_network("sdn", ())
    tasks = toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    images = toy_trainer.augmentation.apply(tasks[1].train.images)
    after_first = network.eval()(images).detach()
    assert torch.equal(approach.teacher(images), after_first)
    network.grow(2, 0)
    approach.begin_task(tasks[1], network, toy_trainer)
    rows = [row.clone() for head in network.heads for row in head.old_rows]
    network.train_old_rows(approach.trains_old_rows)
    toy_trainer.fit(Fit(network, approach.loss, approach.training_set(tasks[1])))
    assert torch.equal(approach.teacher(images), after_first)
    # Without exemplars the classifiers of old tasks are frozen.
    assert all(torch.equal(a, b) for a, b in zip(rows, (r for h in network.heads for r in h.old_rows), strict=True))


@pytest.mark.parametrize("statistics", ["batch", "pretrained", "continuous"])
def test_teacher_adaptation_changes_what_is_learned(statistics, toy_learn, toy_network, toy_benchmark):
    finals = []
    for kind in ("frozen", statistics):
        network = toy_network("sdn", ())
        toy_learn(LwF(teacher_bn=kind), network, toy_benchmark().tasks[:2])
        finals.append(network.heads[-1].classifier.weight.detach())
    assert not torch.equal(*finals)


def test_old_rows_learn_without_exemplars_if_asked(toy_learn, toy_network, toy_benchmark):
    moved = {}
    for asked in (None, True):
        network, approach = toy_network(sizes=()), LwF(train_old_rows=asked)
        tasks = toy_benchmark().tasks[:2]
        toy_learn(approach, network, tasks[:1])
        before = network.heads[0].classifier.weight.clone()
        toy_learn(approach, network, tasks[1:])
        moved[asked] = not torch.equal(network.heads[0].classifier.old_weight, before)
    assert moved == {None: False, True: True}
