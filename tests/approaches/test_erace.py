"""ER-ACE: new images compete among themselves, exemplars among all classes."""

import math

import pytest
import torch

from cl_ac.approaches.erace import ERACE
from cl_ac.memory import Memory

# [E = 3, N = 5, C = 5] of tasks with two and three classes: images 0–2 are new, 3 and 4 exemplars.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(5)] for e in range(3)]
NEW, REPLAYED = [2, 4, 2], [0, 3]


def cross_entropy(row: list[float], target: int, among: list[int]) -> float:
    return math.log(sum(math.exp(row[c]) for c in among)) - row[target]


def loss_of(approach: ERACE, logits, numbered_network, numbered_batch):
    replay = numbered_batch([3, 4], REPLAYED, (2, 3))
    return approach.loss(numbered_network(logits), numbered_batch([0, 1, 2], NEW, (2, 3), replay=(replay,)))


@pytest.mark.parametrize(("among", "competing"), [("batch", [2, 4]), ("task", [2, 3, 4])])
def test_loss_is_that_of_the_paper(among, competing, numbered_network, numbered_batch):
    loss = loss_of(ERACE(among=among), torch.tensor(LOGITS), numbered_network, numbered_batch)
    for rows, value in zip(LOGITS, loss.tolist(), strict=True):
        new = sum(cross_entropy(rows[n], t, competing) for n, t in enumerate(NEW)) / 3
        replayed = sum(cross_entropy(rows[n], t, [0, 1, 2, 3, 4]) for n, t in zip([3, 4], REPLAYED, strict=True)) / 2
        assert value == pytest.approx(new + replayed, rel=1e-5)


def test_new_images_leave_absent_classes_alone(numbered_network, numbered_batch):
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss_of(ERACE(), logits, numbered_network, numbered_batch).sum().backward()
    assert (logits.grad[:, :3, [2, 4]] != 0).all()
    assert (logits.grad[:, :3, [0, 1, 3]] == 0).all()
    assert (logits.grad[:, 3:] != 0).all()


def test_exemplars_of_new_classes_are_replayed_and_images_pass_on_their_own(toy_benchmark, toy_network, toy_learn):
    sizes: list[int] = []
    approach, network = ERACE(replay=3), toy_network("sdn", sizes=())
    approach.memory = Memory(12)
    network.register_forward_pre_hook(lambda module, inputs: sizes.extend([len(inputs[0])] * module.training))
    for task in toy_benchmark(validation=0).tasks[:2]:
        sizes.clear()
        toy_learn(approach, network, [task])
        # 24 images make three batches of 8, in two epochs.
        assert sizes == [8, 3] * 6
        assert approach.memory.targets.unique().tolist() == list(range(task.classes_seen))
        assert torch.equal(approach.training_set(task).exemplars.targets, approach.memory.targets)
