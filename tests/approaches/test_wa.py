"""WA: its loss, rows that stay above 0, and rows of equal mean length."""

import math

import pytest
import torch

from cl_ac.approaches.wa import WA
from cl_ac.heads import GrowingLinear, align
from cl_ac.memory import Memory

# [E = 3, N = 2, C = 5] of tasks with two and three classes.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(2)] for e in range(3)]
OLD = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(2)] for n in range(2)] for e in range(3)]
TARGETS = [1, 3]


def softmax(row: list[float]) -> list[float]:
    return [math.exp(value) / sum(math.exp(other) for other in row) for value in row]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_loss_weighs_by_the_share_of_old_classes(temperature, numbered_network, numbered_batch):
    approach = WA(temperature)
    approach.teacher.forward = numbered_network(torch.tensor(OLD))
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)), numbered_batch([0, 1], TARGETS, (2, 3)))
    for rows, old, value in zip(LOGITS, OLD, loss.tolist(), strict=True):
        entropy = sum(-math.log(softmax(z)[y]) for z, y in zip(rows, TARGETS, strict=True)) / 2
        distilled = 0.0
        for z, r in zip(rows, old, strict=True):
            student, teacher = softmax([v / temperature for v in z[:2]]), softmax([v / temperature for v in r])
            distilled -= sum(p * math.log(q) for p, q in zip(teacher, student, strict=True)) / 2
        assert value == pytest.approx(3 / 5 * entropy + 2 / 5 * distilled, rel=1e-5)


def classifier_of(old: list[list[float]], new: list[list[float]]) -> GrowingLinear:
    classifier = GrowingLinear(2)
    for rows in (old, new):
        classifier.grow(len(rows), torch.Generator())
        with torch.no_grad():
            classifier.new_weight.copy_(torch.tensor(rows))
    return classifier


def test_new_rows_get_the_mean_length_of_old_rows():
    classifier = classifier_of([[3.0, 4.0], [0.0, 5.0]], [[6.0, 8.0]])
    old, bias = classifier.old_weight.clone(), classifier.bias.clone()
    for _ in range(2):
        align(classifier)
        torch.testing.assert_close(classifier.new_weight.detach(), torch.tensor([[3.0, 4.0]]))
    assert torch.equal(classifier.old_weight, old)
    assert torch.equal(classifier.bias, bias)


@pytest.mark.parametrize(("new", "lengthen", "expected"), [(0.5, True, 5.0), (0.5, False, 0.5), (8.0, False, 5.0)])
def test_short_rows_are_lengthened_only_if_wanted(new, lengthen, expected):
    classifier = classifier_of([[3.0, 4.0]], [[0.0, new]])
    align(classifier, lengthen)
    torch.testing.assert_close(classifier.new_weight.detach(), torch.tensor([[0.0, expected]]))


def test_rows_of_zeros_stay_zeros():
    classifier = classifier_of([[3.0, 4.0]], [[0.0, 0.0]])
    align(classifier)
    assert (classifier.new_weight == 0).all()


@pytest.mark.parametrize("clip", [True, False])
def test_every_exit_is_clipped_and_aligned_before_it_teaches(clip, toy_benchmark, toy_network, toy_learn):
    approach, network = WA(clip=clip), toy_network("sdn", sizes=())
    approach.memory = Memory(12)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    first = [head.classifier.new_weight.detach().clone() for head in network.heads]
    toy_learn(approach, network, tasks[1:2])
    for head, before, taught in zip(network.heads, first, approach.teacher.network.heads, strict=True):
        old, new = head.classifier.old_weight, head.classifier.new_weight
        assert not torch.equal(old, before)
        torch.testing.assert_close(new.norm(dim=1).mean(), old.norm(dim=1).mean())
        assert torch.equal(taught.classifier.new_weight, new)
        assert bool((head.classifier.weight >= 0).all()) is clip
