"""SS-IL: the separated softmax."""

import math

import pytest
import torch

from cl_ac.approaches.ssil import SSIL
from cl_ac.memory import Memory

# [E = 2, N = 5, C = 6] of three tasks with two classes; images 0–2 are new, 3 and 4 exemplars.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(6)] for n in range(5)] for e in range(2)]
OLD = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(4)] for n in range(5)] for e in range(2)]
TARGETS = [4, 5, 4, 0, 3]


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def divergence(teacher: list[float], student: list[float], temperature: float) -> float:
    p, q = ([math.exp(v / temperature) for v in row] for row in (teacher, student))
    return sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))


def expected(e: int, strength: float, temperature: float) -> float:
    separated = [cross_entropy(LOGITS[e][n][4:], TARGETS[n] - 4) for n in range(3)]
    separated += [cross_entropy(LOGITS[e][n][:4], TARGETS[n]) for n in (3, 4)]
    distilled = sum(
        temperature**2 * divergence(OLD[e][n][task], LOGITS[e][n][task], temperature)
        for n in range(5)
        for task in (slice(0, 2), slice(2, 4))
    )
    return sum(separated) / 5 + strength * distilled / 5


def loss_of(approach: SSIL, logits, numbered_network, numbered_batch):
    approach.teacher.forward = numbered_network(torch.tensor(OLD)[: len(logits)])
    replay = numbered_batch([3, 4], TARGETS[3:], (2, 2, 2))
    return approach.loss(numbered_network(logits), numbered_batch([0, 1, 2], TARGETS[:3], (2, 2, 2), replay=(replay,)))


@pytest.mark.parametrize("exits", [1, 2])
def test_loss_is_that_of_the_paper(exits, numbered_network, numbered_batch):
    loss = loss_of(SSIL(0.25, 2.0), torch.tensor(LOGITS)[:exits], numbered_network, numbered_batch)
    assert loss.tolist() == pytest.approx([expected(e, 0.25, 2.0) for e in range(exits)], rel=1e-5)


def test_the_softmax_is_separated(numbered_network, numbered_batch):
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss_of(SSIL(strength=0.0), logits, numbered_network, numbered_batch).sum().backward()
    reached = logits.grad != 0
    assert reached[:, :3, 4:].all()
    assert reached[:, 3:, :4].all()
    assert not reached[:, :3, :4].any()
    assert not reached[:, 3:, 4:].any()


def test_distillation_reaches_the_old_classes_of_all_images(numbered_network, numbered_batch):
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss_of(SSIL(strength=1.0), logits, numbered_network, numbered_batch).sum().backward()
    assert (logits.grad[:, :3, :4] != 0).all()
    assert (logits.grad[:, 3:, 4:] == 0).all()


def test_each_step_replays_32_and_full_batches_only(toy_benchmark, toy_network, toy_learn):
    approach, network = SSIL(), toy_network("sdn", sizes=())
    approach.memory = Memory(6)
    tasks = toy_benchmark(per_class=9, validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    teacher = {name: value.clone() for name, value in approach.teacher.state_dict().items() if "extra" not in name}
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.extend([len(inputs[0])] * module.training))
    data = approach.training_set(tasks[1])
    assert data.drop_last
    assert data.replay == (32,)
    end_task, approach.end_task = approach.end_task, lambda *_: None
    toy_learn(approach, network, tasks[1:2])
    # 18 images make two full batches of 8, in two epochs.
    assert sizes == [8 + 32] * 4
    for name, value in teacher.items():
        assert torch.equal(approach.teacher.state_dict()[name], value)
    approach.end_task = end_task
