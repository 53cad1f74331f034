"""FDR: stored probabilities, and classes that had none."""

import math

import pytest
import torch

from cl_ac.approaches.fdr import FDR
from cl_ac.memory import Memory

# [E = 3, N = 5, C = 4]: images 0–2 are new, 3 and 4 exemplars.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(4)] for n in range(5)] for e in range(3)]
# [B = 2, E = 3, C = 4]: the first exemplar was stored when two classes were known, the second with four.
STORED = [[[(3 * e + 5 * n + 2 * c) % 7 / 3 for c in range(4)] for e in range(3)] for n in range(2)]
KNOWN = [2, 4]


def softmax(row: list[float]) -> list[float]:
    return [math.exp(value) / sum(math.exp(other) for other in row) for value in row]


def make_batch(numbered_batch):
    extras = {"logits": torch.tensor(STORED), "classes_known": torch.tensor(KNOWN)}
    replay = numbered_batch([3, 4], [0, 3], (2, 2), extras=extras)
    return numbered_batch([0, 1, 2], [2, 3, 2], (2, 2), replay=(replay,))


def test_loss_is_that_of_the_paper(numbered_network, numbered_batch):
    loss = FDR(0.3).loss(numbered_network(torch.tensor(LOGITS)), make_batch(numbered_batch))
    for index, (rows, value) in enumerate(zip(LOGITS, loss.tolist(), strict=True)):
        new = sum(-math.log(softmax(rows[n])[t]) for n, t in enumerate([2, 3, 2])) / 3
        distance = 0.0
        for n, known in enumerate(KNOWN):
            then = softmax(STORED[n][index][:known]) + [0.0] * (4 - known)
            distance += math.dist(softmax(rows[3 + n]), then) / 2
        assert value == pytest.approx(new + 0.3 * distance, rel=1e-5)


def test_exemplars_are_held_off_classes_that_came_later(numbered_network, numbered_batch):
    logits = torch.tensor(LOGITS, requires_grad=True)
    FDR().loss(numbered_network(logits), make_batch(numbered_batch)).sum().backward()
    assert (logits.grad[:, 3, 2:].sum(-1) > 0).all()
    assert (logits.grad[:, 4] != 0).all()


def test_probabilities_of_the_first_task_are_kept(toy_benchmark, toy_network, toy_learn, toy_trainer):
    moved = {}
    for strength in (0.0, 10.0):
        approach, network = FDR(strength), toy_network("sdn", sizes=())
        approach.memory = Memory(12)
        first, second = toy_benchmark(validation=0).tasks[:2]
        toy_learn(approach, network, [first])
        exemplars = approach.memory.samples
        assert exemplars.extras["logits"].shape == (12, 3, 2)
        before = toy_trainer.predict(network, exemplars).softmax(-1)
        toy_learn(approach, network, [second])
        after = toy_trainer.predict(network, exemplars).softmax(-1)
        moved[strength] = (after[..., :2] - before).norm(dim=-1).mean()
    assert moved[10.0] < 0.8 * moved[0.0]
