"""ANCL: an auxiliary network learns the new task alone and teaches it."""

import math

import pytest
import torch

from cl_ac.approaches.ancl import ANCL
from cl_ac.approaches.lwf import LwF
from cl_ac.training import Fit

LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(3)] for e in range(2)]
OLD = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(3)] for n in range(3)] for e in range(2)]
AUXILIARY = [[[(5 * e + 3 * n + 4 * c) % 9 / 3 for c in range(5)] for n in range(3)] for e in range(2)]
TARGETS = [4, 3, 4]
SIZES = (2, 1, 2)


def softmax(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("kind", ["taskwise", "global", "multilabel"])
@pytest.mark.parametrize("exits", [1, 2])
def test_adds_the_auxiliary_term_to_lwf(kind, exits, numbered_network, numbered_batch):
    network, batch = numbered_network(torch.tensor(LOGITS)[:exits]), numbered_batch([0, 1, 2], TARGETS, SIZES)
    losses = []
    for approach in (ANCL(0.5, auxiliary_strength=2.0, distillation=kind), LwF(0.5, kind)):
        approach.teacher.forward = numbered_network(torch.tensor(OLD)[:exits])
        if isinstance(approach, ANCL):
            approach.auxiliary.forward = numbered_network(torch.tensor(AUXILIARY)[:exits])
        losses.append(approach.loss(network, batch))
    expected = [
        sum(
            -2.0 * sum(a * math.log(b) for a, b in zip(softmax(aux[3:], 2), softmax(new[3:], 2), strict=True))
            for aux, new in zip(AUXILIARY[e], LOGITS[e], strict=True)
        )
        / 3
        for e in range(exits)
    ]
    torch.testing.assert_close(losses[0] - losses[1], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_auxiliary_network_starts_from_the_network_and_learns_the_new_task(
    toy_learn, toy_network, toy_benchmark, toy_trainer
):
    approach, network = ANCL(), toy_network("sdn", ())
    tasks = toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    assert approach.auxiliary.network is None
    network.grow(2, 0)
    before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    approach.begin_task(tasks[1], network, toy_trainer)
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in before.items())
    auxiliary = approach.auxiliary.network
    assert not any(parameter.requires_grad for parameter in auxiliary.parameters())
    for mine, theirs in zip(auxiliary.heads, network.heads, strict=True):
        # Weight decay and momentum do not reach the rows of old classes.
        assert all(torch.equal(a, b) for a, b in zip(mine.old_rows, theirs.old_rows, strict=True))
        assert not torch.equal(mine.classifier.new_weight, theirs.classifier.new_weight)
    held = {name: value.clone() for name, value in auxiliary.named_parameters()}
    toy_trainer.fit(Fit(network, approach.loss, approach.training_set(tasks[1])))
    assert all(torch.equal(value, held[name]) for name, value in auxiliary.named_parameters())
