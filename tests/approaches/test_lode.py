"""LODE: two decoupled losses on new images."""

import math

import pytest
import torch

from cl_ac.approaches.lode import LODE
from cl_ac.memory import Memory

# [E = 2, N = 5, C = 5] of tasks with three and two classes; images 0–2 are new, 3 and 4 exemplars.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(5)] for e in range(2)]
TARGETS = [3, 4, 3, 0, 4]


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def expected(e: int, intra_weight: float, inter_weight: float) -> float:
    new = LOGITS[e][:3]
    intra = sum(cross_entropy(row[3:], target - 3) for row, target in zip(new, TARGETS, strict=False)) / 3
    inter = sum(-math.log(sum(map(math.exp, row[3:])) / sum(map(math.exp, row))) for row in new) / 3
    replayed = sum(cross_entropy(LOGITS[e][n], TARGETS[n]) for n in (3, 4)) / 2
    return intra_weight * intra + inter_weight * 2 / 3 * inter + replayed


def loss_of(approach: LODE, logits, numbered_network, numbered_batch):
    replay = numbered_batch([3, 4], TARGETS[3:], (3, 2))
    return approach.loss(numbered_network(logits), numbered_batch([0, 1, 2], TARGETS[:3], (3, 2), replay=(replay,)))


@pytest.mark.parametrize("exits", [1, 2])
def test_loss_is_that_of_the_paper(exits, numbered_network, numbered_batch):
    loss = loss_of(LODE(4.0, 0.5), torch.tensor(LOGITS)[:exits], numbered_network, numbered_batch)
    assert loss.tolist() == pytest.approx([expected(e, 4.0, 0.5) for e in range(exits)], rel=1e-5)


def test_new_images_reach_old_classes_through_the_second_loss_only(numbered_network, numbered_batch):
    for inter_weight in (0.0, 1.0):
        logits = torch.tensor(LOGITS, requires_grad=True)
        loss_of(LODE(1.0, inter_weight), logits, numbered_network, numbered_batch).sum().backward()
        assert (logits.grad[:, :3, :3] != 0).all() == bool(inter_weight)
        assert (logits.grad[:, 3:] != 0).all()


def test_new_images_and_exemplars_pass_one_after_the_other(toy_benchmark, toy_network, toy_learn):
    approach, network, sizes = LODE(), toy_network("sdn", sizes=()), []
    approach.memory = Memory(6)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    hook = network.register_forward_pre_hook(lambda module, inputs: sizes.append((len(inputs[0]), module.training)))
    toy_learn(approach, network, tasks[1:2])
    hook.remove()
    assert [(size, training) for size, training in sizes if training] == [(8, True), (8, True)] * 6


def test_the_first_task_is_cross_entropy(numbered_network, numbered_batch):
    batch = numbered_batch([0, 1], [0, 1], (5,), replay=(numbered_batch([], [], (5,)),))
    loss = LODE(4.0, 0.5).loss(numbered_network(torch.tensor(LOGITS)[:1]), batch)
    assert loss.item() == pytest.approx(sum(cross_entropy(LOGITS[0][n], n) for n in (0, 1)) / 2, rel=1e-5)
