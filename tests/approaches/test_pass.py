"""PASS: rotations are classes, prototypes with noise stand for old ones, features are distilled."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.pass_ import PASS
from cl_ac.data.batches import Batch
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, ExitNetwork


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_trainer):
    """An approach after one task, a network that has moved on, and a batch of the second task."""

    def make(**options):
        approach, network, tasks = PASS(**options), toy_network("sdn", (2,)), toy_benchmark().tasks
        approach.begin_task(tasks[0], network, toy_trainer)
        approach.end_task(tasks[0], network, toy_trainer)
        network.grow(2, 0)
        approach.begin_task(tasks[1], network, toy_trainer)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        images = toy_trainer.augmentation.apply(tasks[1].train.images)
        batch = Batch(images, tasks[1].train.targets, tasks[1], stream=partial(generator, 0, "test"))
        return approach, network.eval(), batch

    return make


def test_loss_by_definition(second_task):
    approach, network, batch = second_task(prototypes=2.0, distillation=3.0, temperature=0.5, replay=5)
    loss, teacher = approach.loss(network, batch), approach.teacher.network
    chosen = approach.prototypes.draw(5, batch)
    # Both classes of the first task: the radius is the root of the mean of their variances.
    noisy = approach.prototypes.spherical(chosen, approach.prototypes.variances.mean(1).sqrt(), batch)
    for index, head in enumerate(network.heads):
        layer = approach.rotations.layers[index]
        total, squares = 0.0, 0.0
        for turns in range(4):
            images = torch.rot90(batch.images, turns, (2, 3))
            value, old = (head.reduce(each.hidden(images)[index]) for each in (network, teacher))
            logits = torch.cat([head.alone(value), layer(value.flatten(1))], 1) / 0.5
            # Four upright classes, then three turned ones of each.
            targets = batch.targets if turns == 0 else 4 + 3 * batch.targets + turns - 1
            total += F.cross_entropy(logits, targets).item() / 4
            squares += (value - old).double().square().sum().item()
        logits = torch.cat([head.alone(noisy[index]), layer(noisy[index].flatten(1))], 1) / 0.5
        replayed = F.cross_entropy(logits, approach.prototypes.targets[chosen]).item()
        assert loss[index].item() == pytest.approx(total + 2 * replayed + 3 * squares**0.5, rel=1e-4)


def test_the_radius_is_of_the_classes_that_the_first_task_has_images_of(second_task, monkeypatch):
    approach, network, batch = second_task()
    # Of class 0 there was no image; class 2 came later.
    approach.prototypes.targets = torch.tensor([1, 2])
    approach.prototypes.variances = torch.tensor([[4.0, 100.0], [9.0, 100.0], [16.0, 100.0]])
    radii = []
    spherical = approach.prototypes.spherical
    monkeypatch.setattr(
        approach.prototypes, "spherical", lambda *given: radii.append(given[1].tolist()) or spherical(*given)
    )
    approach.loss(network, batch)
    assert radii == [[2.0, 3.0, 4.0]]


def test_the_first_task_learns_four_classes_for_each(toy_network, toy_benchmark, toy_trainer):
    approach, network, task = PASS(), toy_network("sdn", (2,)).train(), toy_benchmark()[0]
    approach.begin_task(task, network, toy_trainer)
    assert [len(layer.bias) for layer in approach.rotations.layers] == [6, 6, 6]
    approach.loss(network, Batch(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 1, 0]), task)).sum().backward()
    assert all(parameter.grad.any() for parameter in approach.learns(network) if parameter.numel())


def test_prototypes_reach_the_heads_and_not_the_backbone(second_task):
    approach, network, batch = second_task()
    chosen = approach.prototypes.draw(4, batch)
    network.train_old_rows(approach.trains_old_rows)
    approach.logits(network, approach.prototypes.at(chosen)).logsumexp(-1).sum().backward()
    assert all(rows.grad.any() for head in network.heads for rows in head.old_rows if rows.numel())
    assert all(parameter.grad is None for parameter in network.backbone.parameters())


def test_replayed_prototypes_keep_old_classes(toy_learn, toy_network, toy_benchmark, toy_trainer):
    tasks, right = toy_benchmark().tasks[:2], {}
    for weight in (0.0, 10.0):
        approach, network = PASS(prototypes=weight, distillation=1.0), toy_network(sizes=())
        toy_learn(approach, network, tasks)
        logits = toy_trainer.predict(network, tasks[0].train)
        right[weight] = (logits[-1].argmax(-1) == tasks[0].train.targets).double().mean().item()
    assert right[10.0] > right[0.0] + 0.3


def test_images_that_are_not_square_are_refused(toy_benchmark, toy_trainer):
    network = ExitNetwork(Backbone((1, 6, 4), {"flat": torch.nn.Flatten()}))
    with pytest.raises(ConfigurationError, match="6 × 4, not square"):
        PASS().begin_task(toy_benchmark()[0], network, toy_trainer)


def test_confidences_are_at_the_temperature_of_training(toy_network):
    network, images = toy_network("sdn", (2, 2)).eval(), torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(PASS(temperature=0.2).answer(network, images), network(images) / 0.2)
