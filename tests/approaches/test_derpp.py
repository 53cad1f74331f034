"""DER and DER++: stored logits, and classes that they do not know."""

import math

import pytest
import torch

from cl_ac.approaches.derpp import DER, DERpp
from cl_ac.memory import Memory
from cl_ac.training import Fit

# [E = 2, N = 7, C = 4]: images 0–2 are new, 3 and 4 the first draw, 5 and 6 the second.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(4)] for n in range(7)] for e in range(2)]
# [B = 2, E = 2, C = 4]: the first exemplar was stored when two classes were known, the second with four.
STORED = [[[0.5, -1.0, 0.0, 0.0], [2.0, 0.25, 0.0, 0.0]], [[1.0, 0.0, -0.5, 1.5], [0.75, 1.0, 2.0, -1.0]]]
KNOWN = [2, 4]


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def expected(exit_index: int, strength: float, replay_weight: float) -> float:
    rows = LOGITS[exit_index]
    new = sum(cross_entropy(rows[n], t) for n, t in enumerate([2, 3, 2])) / 3
    errors = [(rows[3 + b][c] - STORED[b][exit_index][c]) ** 2 for b, known in enumerate(KNOWN) for c in range(known)]
    replayed = (cross_entropy(rows[5], 1) + cross_entropy(rows[6], 3)) / 2
    return new + strength * sum(errors) / 6 + replay_weight * replayed


def make_batch(numbered_batch, exits: int):
    extras = {"logits": torch.tensor(STORED)[:, :exits], "classes_known": torch.tensor(KNOWN)}
    draws = (
        numbered_batch([3, 4], [0, 1], (2, 2), extras=extras),
        numbered_batch([5, 6], [1, 3], (2, 2), extras=extras),
    )
    return numbered_batch([0, 1, 2], [2, 3, 2], (2, 2), replay=draws)


@pytest.mark.parametrize("exits", [1, 2])
@pytest.mark.parametrize(
    ("approach", "weights"),
    [(DER(0.3), (0.3, 0)), (DERpp(0.3, 0.7), (0.3, 0.7)), (DERpp(0.3, 0.7, True), (0.3, 0.7))],
)
def test_loss_is_that_of_the_paper(approach, weights, exits, numbered_network, numbered_batch):
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)[:exits]), make_batch(numbered_batch, exits))
    assert loss.tolist() == pytest.approx([expected(e, *weights) for e in range(exits)], rel=1e-5)


def test_classes_unseen_at_storage_have_no_gradient(numbered_network, numbered_batch):
    logits = torch.tensor(LOGITS, requires_grad=True)
    DER().loss(numbered_network(logits), make_batch(numbered_batch, 2)).sum().backward()
    assert (logits.grad[:, 3, 2:] == 0).all()
    assert (logits.grad[:, 3, :2] != 0).all()
    assert (logits.grad[:, 4] != 0).all()
    assert (logits.grad[:, 5:] == 0).all()


def test_the_first_task_is_cross_entropy(numbered_network, numbered_batch):
    nothing = numbered_batch([], [], (2,))
    batch = numbered_batch([0, 1], [0, 1], (2,), replay=(nothing, nothing))
    loss = DERpp().loss(numbered_network(torch.tensor(LOGITS)[:1, :, :2]), batch)
    assert loss.item() == pytest.approx(sum(cross_entropy(LOGITS[0][n][:2], n) for n in (0, 1)) / 2, rel=1e-5)


@pytest.mark.parametrize(("approach", "passes"), [(DER(), 2), (DERpp(), 3), (DERpp(joint=True), 1)])
def test_draws_pass_alone_or_together(approach, passes, toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach.memory = Memory(6)
    network = toy_network("sdn", sizes=())
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    network.grow(2, 0)
    approach.begin_task(tasks[1], network, toy_trainer)
    calls: list[bool] = []
    network.register_forward_pre_hook(lambda module, inputs: calls.append(module.training))
    toy_trainer.fit(Fit(network, approach.loss, approach.training_set(tasks[1])))
    # Afterwards the network is asked once, in evaluation mode, whether it still answers with numbers.
    assert calls == [*[True] * passes * 6, False]


def test_two_draws_differ(toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network, seen = DERpp(), toy_network(sizes=()), []
    approach.memory = Memory(20)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    network.grow(2, 0)
    approach.begin_task(tasks[1], network, toy_trainer)

    def loss(network, batch):
        seen.append(batch.replay)
        return approach.loss(network, batch)

    toy_trainer.fit(Fit(network, loss, approach.training_set(tasks[1])))
    assert all(len(first) == len(second) == 8 for first, second in seen)
    assert not any(torch.equal(first.images, second.images) for first, second in seen)


@pytest.mark.parametrize("exits", [0, 2])
def test_logits_are_stored_once_and_padded(exits, toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = DERpp(), toy_network(*(["sdn"] if exits else []), sizes=())
    approach.memory = memory = Memory(8)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    first = memory.samples
    assert torch.allclose(first.extras["logits"].transpose(0, 1), toy_trainer.predict(network, first), atol=1e-6)
    assert first.extras["logits"].shape == (8, exits + 1, 2)
    toy_learn(approach, network, tasks[1:2])
    assert memory.extras.classes_known.tolist() == [2] * 4 + [4] * 4
    old, new = memory.samples.select(torch.arange(4)), memory.samples.select(torch.arange(4, 8))
    kept = torch.cat([(first.targets == target).nonzero()[:2, 0] for target in (0, 1)])
    assert torch.equal(old.extras["logits"][:, :, :2], first.extras["logits"][kept])
    assert (old.extras["logits"][:, :, 2:] == 0).all()
    assert torch.allclose(new.extras["logits"].transpose(0, 1), toy_trainer.predict(network, new), atol=1e-6)
