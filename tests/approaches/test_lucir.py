"""LUCIR: cosine heads, features that keep their direction, and a margin for old classes."""

import math

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.lucir import LUCIR
from cl_ac.data.batches import Batch
from cl_ac.heads import GrowingCosine
from cl_ac.memory import Memory


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_trainer):
    """An approach with its teacher, a network that has moved on, and a batch of both tasks."""

    def make(exits):
        approach = LUCIR()
        network = toy_network(exits, (2,), classifier=approach.build_classifier)
        tasks = toy_benchmark().tasks
        approach.memory = Memory(6)
        approach.choose_exemplars(tasks[0], network, toy_trainer)
        approach.end_task(tasks[0], network, toy_trainer)
        network.grow(2, 0)
        with torch.no_grad():
            for head in network.heads:
                head.classifier.scale.fill_(3.0)
            for parameter in network.backbone.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        data = approach.training_set(tasks[1]).samples
        images = toy_trainer.augmentation.apply(data.images)
        return approach, network.eval(), Batch(images, data.targets, tasks[1])

    return make


@pytest.mark.parametrize("exits", ["sdn", None])
def test_loss_by_definition(exits, second_task, toy_network):
    approach, network, batch = second_task(exits or toy_network().exits)
    loss = approach.loss(network, batch)
    new_features, old_features = network.features(batch.images), approach.teacher.network.features(batch.images)
    expected = []
    for head, new, old in zip(network.heads, new_features, old_features, strict=True):
        weight = F.normalize(head.classifier.weight, dim=-1)
        total = ranked = 0.0
        old_count = int((batch.targets < 2).sum())
        for feature, before, target in zip(new, old, batch.targets.tolist(), strict=True):
            cosines = (weight @ feature / feature.norm()).tolist()
            powers = [math.exp(3.0 * value) for value in cosines]
            turned = 1 - (feature @ before / feature.norm() / before.norm()).item()
            # Two old and two new classes: the strength is 5 · √(2 / 2).
            total += -math.log(powers[target] / sum(powers)) + 5.0 * turned
            if target < 2:
                ranked += sum(max(0.0, 0.5 - cosines[target] + rival) for rival in cosines[2:]) / 2
        expected.append(total / len(batch) + ranked / old_count)
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_strength_grows_with_the_share_of_old_classes(second_task):
    approach, network, batch = second_task("sdn")
    approach.ranking = 0.0
    distances = approach.loss(network, batch)
    approach.strength = 0.0
    plain = approach.loss(network, batch)
    approach.strength = 10.0
    torch.testing.assert_close(approach.loss(network, batch) - plain, 2 * (distances - plain), rtol=1e-4, atol=1e-5)


def test_heads_are_cosine_and_old_rows_stay(toy_learn, toy_network, toy_benchmark):
    approach = LUCIR()
    approach.memory = Memory(6)
    network = toy_network("sdn", (), classifier=approach.build_classifier)
    tasks = toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    assert all(isinstance(head.classifier, GrowingCosine) for head in network.heads)
    rows = [head.classifier.new_weight.detach().clone() for head in network.heads]
    scales = [head.classifier.scale.item() for head in network.heads]
    toy_learn(approach, network, tasks[1:2])
    for head, row, scale in zip(network.heads, rows, scales, strict=True):
        assert torch.equal(head.classifier.old_weight, row)
        assert head.classifier.scale.item() != scale


@pytest.mark.parametrize("imprint", [True, False])
def test_new_rows_point_at_their_class(imprint, toy_network, toy_benchmark, toy_trainer):
    approach, tasks = LUCIR(imprint=imprint), toy_benchmark().tasks
    network = toy_network("sdn", (2, 2), classifier=approach.build_classifier)
    approach.begin_task(tasks[1], network, toy_trainer)
    for head, features in zip(network.heads, toy_trainer.features(network, tasks[1].train), strict=True):
        rows = head.classifier.new_weight.detach()
        means = torch.stack([F.normalize(features[tasks[1].train.targets == label]).mean(0) for label in (2, 3)])
        assert bool((F.cosine_similarity(rows, means) > 0.999).all()) == imprint
        if imprint:
            torch.testing.assert_close(rows.norm(dim=1), head.classifier.old_weight.norm(dim=1).mean().expand(2))
