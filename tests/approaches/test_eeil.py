"""EEIL: distillation of each old task, and the balanced phase."""

import math
from dataclasses import replace

import pytest
import torch

from cl_ac.approaches.eeil import EEIL
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory

# [E = 3, N = 3, C = 5] of tasks with two, one and two classes; the teacher has no logits of the last.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(3)] for e in range(3)]
OLD = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(3)] for n in range(3)] for e in range(3)]
TARGETS = [3, 0, 4]
OLD_TASKS = [slice(0, 2), slice(2, 3)]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    values = [math.exp(value / temperature) for value in row]
    return [value / sum(values) for value in values]


def cross_entropy(e: int) -> float:
    return sum(-math.log(softmax(LOGITS[e][n])[target]) for n, target in enumerate(TARGETS)) / 3


def distillation(e: int, task: slice, temperature: float) -> float:
    total = 0.0
    for student, teacher in zip(LOGITS[e], OLD[e], strict=True):
        pairs = zip(softmax(teacher[task], temperature), softmax(student[task], temperature), strict=True)
        total -= sum(p * math.log(q) for p, q in pairs)
    return total / 3


def binary_distillation(e: int, task: slice, temperature: float) -> float:
    terms = []
    for student, teacher in zip(LOGITS[e], OLD[e], strict=True):
        for p, q in zip(softmax(teacher[task], temperature), softmax(student[task], temperature), strict=True):
            terms.append(-p * math.log(q) - (1 - p) * math.log(1 - q))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("exits", [1, 3])
def test_loss_distils_each_old_task_on_its_own(exits, numbered_network, numbered_batch):
    approach = EEIL(strength=0.5, noise=0.0)
    approach.teacher.forward = numbered_network(torch.tensor(OLD)[-exits:])
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)[-exits:]), numbered_batch([0, 1, 2], TARGETS, (2, 1, 2)))
    expected = [cross_entropy(e) + 0.5 * sum(distillation(e, task, 2.0) for task in OLD_TASKS) for e in range(3)]
    assert loss.tolist() == pytest.approx(expected[-exits:], rel=1e-5)


def test_the_published_loss_leaves_out_the_last_old_task(numbered_network, numbered_batch):
    approach = EEIL(published=True, noise=0.0)
    approach.teacher.forward = numbered_network(torch.tensor(OLD))
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)), numbered_batch([0, 1, 2], TARGETS, (2, 1, 2)))
    expected = [cross_entropy(e) + binary_distillation(e, OLD_TASKS[0], 2.0) for e in range(3)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_first_task_is_cross_entropy(numbered_network, numbered_batch):
    loss = EEIL(noise=0.0).loss(numbered_network(torch.tensor(LOGITS)), numbered_batch([0, 1, 2], TARGETS, (5,)))
    assert loss.tolist() == pytest.approx([cross_entropy(e) for e in range(3)], rel=1e-5)


@pytest.fixture
def balanced(toy_benchmark, toy_network, toy_learn, toy_trainer, monkeypatch):
    """Brings an approach to the end of the second task; returns it, the network there and the fit it asks for."""

    def reach(approach):
        network, fits = toy_network("sdn", sizes=()), []
        approach.memory = Memory(13, selection="herding")
        tasks = toy_benchmark(validation=0).tasks
        toy_learn(approach, network, tasks[:1])
        assert not fits
        network.grow(2, 0)
        monkeypatch.setattr(toy_trainer, "fit", fits.append)
        approach.choose_exemplars(tasks[1], network, toy_trainer)
        return approach, network, fits

    return reach


def test_the_balanced_phase_has_as_many_images_of_new_classes_as_of_old(balanced):
    approach, _, [fit] = balanced(EEIL())
    # 13 exemplars of 2 classes are 7 and 6; then, of 4 classes, 4, 3, 3 and 3.
    assert fit.data.samples.targets.bincount().tolist() == [7, 6, 7, 7]
    assert approach.memory.targets.bincount().tolist() == [4, 3, 3, 3]
    assert (fit.training.epochs, fit.training.lr) == (30, 0.1 * 0.05)
    assert [fit.training.learning_rate(epoch, 30) for epoch in (0, 9, 10, 20)] == pytest.approx(
        [0.005, 0.005, 0.0005, 0.00005]
    )


def test_the_balanced_teacher_is_what_the_first_phase_ended_with(balanced, numbered_batch, toy_trainer):
    _, network, [fit] = balanced(EEIL(strength=3.0, temperature=1.0))
    images = toy_trainer.augmentation.apply(fit.data.samples.images[-4:])
    batch = replace(numbered_batch([0] * 4, [3] * 4, (2, 2)), images=images)
    network.eval()
    logits = network(images).double()
    probabilities = [logits[:, :, task].softmax(-1) for task in (slice(0, 2), slice(2, 4))]
    entropies = sum(-(p * p.log()).sum(-1).mean(-1) for p in probabilities)
    own = -logits.log_softmax(-1)[:, :, 3].mean(-1)
    torch.testing.assert_close(fit.loss(network, batch), (own + 3.0 * entropies).float())


def test_without_balanced_epochs_there_is_no_second_phase(balanced):
    assert balanced(EEIL(balanced_epochs=0))[2] == []


def test_the_balanced_phase_moves_the_whole_network(toy_benchmark, toy_network, toy_learn, toy_trainer, monkeypatch):
    approach, network = EEIL(balanced_epochs=1), toy_network("sdn", sizes=())
    approach.memory = Memory(12)
    monkeypatch.setattr(approach, "balance", lambda task, network, trainer: None)
    toy_learn(approach, network, toy_benchmark(validation=0).tasks[:2])
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    monkeypatch.undo()
    approach.balance(toy_benchmark(validation=0)[1], network, toy_trainer)
    assert not [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])]


def test_noise_on_gradients_falls_with_the_epochs_and_leaves_the_loss_alone(toy_network, toy_benchmark):
    task, approach, plain = toy_benchmark()[0], EEIL(noise=0.3), EEIL(noise=0.0)
    images, targets = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    drawn = {}
    for exits in ("sdn", toy_network().exits):
        network = toy_network(exits).eval()
        for epoch in (0, 9):
            batch = Batch(images, targets, task, epoch=epoch)
            noisy, clean = approach.loss(network, batch), plain.loss(network, batch)
            assert torch.equal(noisy, clean)
            # The final exit's weight is 1; it brings the noise for all.
            parameters = list(network.parameters())
            gradients = [
                torch.autograd.grad(loss[-1], parameters, allow_unused=True, materialize_grads=True)
                for loss in (noisy, clean)
            ]
            drawn[len(network), epoch] = [a - b for a, b in zip(*gradients, strict=True)]
    backbone = len(list(network.backbone.parameters()))
    for index in (*range(backbone), -2, -1):
        torch.testing.assert_close(drawn[1, 0][index], drawn[3, 0][index], rtol=1e-3, atol=1e-5)
    values = torch.cat([value.flatten() for value in drawn[3, 0]])
    later = torch.cat([value.flatten() for value in drawn[3, 9]])
    assert values.std().item() == pytest.approx(0.3 / 2**0.55 / 4, rel=0.15)
    torch.testing.assert_close(later, values * (2 / 11) ** 0.55, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [{"balanced_epochs": -1}, {"balanced_lr": 0.0}, {"noise": -1.0}])
def test_wrong_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=r"EEIL\.balanced_epochs is .* EEIL\.balanced_lr .* and EEIL\.noise"):
        EEIL(**settings)
