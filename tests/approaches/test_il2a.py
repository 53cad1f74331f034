"""IL2A: pairs of classes as classes, prototypes with the covariance of their class."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.il2a import IL2A, pair_index, shares
from cl_ac.classifiers.prototypes import Prototypes
from cl_ac.data.batches import Batch
from cl_ac.data.seeding import generator


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_trainer):
    """An approach after one task, a network that has moved on, and a batch of the second task."""

    def make(**options):
        approach, network, tasks = IL2A(**options), toy_network("sdn", (2,)), toy_benchmark().tasks
        approach.begin_task(tasks[0], network, toy_trainer)
        approach.end_task(tasks[0], network, toy_trainer)
        network.grow(2, 0)
        approach.begin_task(tasks[1], network, toy_trainer)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        images = toy_trainer.augmentation.apply(tasks[1].train.images)
        batch = Batch(images, tasks[1].train.targets, tasks[1], stream=partial(generator, 0))
        return approach, network.eval(), batch

    return make


def test_pairs_are_numbered_row_by_row():
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    first, second = torch.tensor(pairs).T
    assert pair_index(first, second, 4).tolist() == pair_index(second, first, 4).tolist() == list(range(6))


def test_shares_are_beta_distributed_around_a_half():
    drawn = shares(20000, torch.Generator().manual_seed(0))
    assert ((drawn >= 0.4) & (drawn <= 0.6)).all()
    # Beta(20, 20) lies further than 0.1 from 1/2 with probability 0.205; those become 1/2.
    assert (drawn == 0.5).double().mean().item() == pytest.approx(0.205, abs=0.01)


def test_mixtures_of_two_classes_are_of_their_pair_and_those_of_one_weigh_nothing(second_task):
    approach, _, batch = second_task(mixes=2)
    images, targets, weights = approach.mixed(batch)
    assert len(images) == len(targets) == len(weights) == 3 * len(batch)
    assert weights[: len(batch)].all()
    # The only pair of the second task's classes 2 and 3 follows the four classes.
    later = slice(len(batch), None)
    assert torch.equal(targets[later] == 4, weights[later] == 1)
    assert 0 < weights[later].sum() < 2 * len(batch)


def test_spread_by_definition(toy_network):
    network, prototypes = toy_network(sizes=(2, 1)), Prototypes(2)
    features = network.heads[0].classifier.in_features
    covariance = torch.diag(torch.tensor([4.0, 1.0] + [0.0] * (features - 2)))
    prototypes.targets, prototypes.variances = torch.tensor([0, 1]), torch.zeros(1, 2)
    prototypes.register_buffer("directions_0", covariance.sqrt()[:2].expand(2, -1, -1).clone())
    approach = IL2A()
    approach.prototypes = prototypes
    weight = network.heads[0].classifier.weight
    for known, row in enumerate(approach.spread(network)[0]):
        apart = weight - weight[known]
        torch.testing.assert_close(row, ((apart @ covariance) * apart).sum(1))
        assert row[known] == 0


def test_loss_by_definition(second_task):
    approach, network, batch = second_task(prototypes=2.0, distillation=3.0, temperature=0.5, replay=5)
    loss, teacher = approach.loss(network, batch), approach.teacher.network
    images, targets, weights = approach.mixed(batch)
    kept, chosen = weights == 1, approach.prototypes.draw(5, batch)
    spread = approach.spread(network)
    for index, head in enumerate(network.heads):
        new, old = (head.reduce(each.hidden(images[kept])[index]) for each in (network, teacher))
        logits = torch.cat([head.alone(new), approach.pairs.layers[index](new.flatten(1))], 1)
        known = head.alone(approach.prototypes.means[index][chosen]) + 1.25 * spread[index][chosen]
        expected = F.cross_entropy(logits / 0.5, targets[kept])
        expected = expected + 2 * F.cross_entropy(known / 0.5, approach.prototypes.targets[chosen])
        torch.testing.assert_close(loss[index], expected + 3 * (new - old).norm(), rtol=1e-4, atol=1e-5)


def test_rows_of_pairs_are_dropped_with_their_task(second_task, toy_benchmark, toy_trainer):
    approach, network, _ = second_task()
    rows = approach.pairs.layers[0].weight.clone()
    assert len(rows) == 1
    network.grow(2, 0)
    approach.begin_task(toy_benchmark()[2], network, toy_trainer)
    assert approach.pairs.layers[0].weight.shape == rows.shape
    assert not torch.equal(approach.pairs.layers[0].weight, rows)


def test_a_task_of_one_class_has_no_pairs(toy_network, toy_benchmark, toy_trainer):
    task, approach, network = toy_benchmark(tasks=6)[0], IL2A(), toy_network("sdn", (1,))
    approach.begin_task(task, network, toy_trainer)
    batch = Batch(torch.randn(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64), task)
    torch.testing.assert_close(approach.loss(network, batch), torch.zeros(3))


def test_confidences_are_at_the_temperature_of_training(toy_network):
    network, images = toy_network("sdn", (2, 2)).eval(), torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(IL2A(temperature=0.2).answer(network, images), network(images) / 0.2)
