"""SSRE: adapters alone learn, prototypes stand for old classes, likeness to them weighs the losses."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.ssre import SSRE
from cl_ac.backbones.parallel_adapters import adapters
from cl_ac.data.batches import Batch
from cl_ac.data.seeding import generator
from cl_ac.network import ExitNetwork
from cl_ac.training import Fit


@pytest.fixture
def prepared(toy_backbone):
    """Makes an approach and a network with adapters, before its first task."""

    def make(exits="sdn", **options):
        approach, backbone = SSRE(**options), toy_backbone()
        approach.prepare(backbone)
        return approach, ExitNetwork(backbone, backbone.exits(exits))

    return make


def test_loss_by_definition(prepared, toy_benchmark, toy_trainer):
    approach, network = prepared(prototypes=2.0, distillation=0.5, temperature=0.2, replay=5)
    tasks = toy_benchmark().tasks
    network.grow(2, 0)
    approach.end_task(tasks[0], network.eval(), toy_trainer)
    network.grow(2, 0)
    with torch.no_grad():
        for adapter in adapters(network.backbone):
            adapter.add_(0.3 * torch.randn(adapter.shape, generator=torch.Generator().manual_seed(1)))
    train = tasks[1].train
    images = toy_trainer.augmentation.apply(train.images)
    batch = Batch(images, train.targets, tasks[1], stream=partial(generator, 0))
    loss, teacher, chosen = approach.loss(network, batch), approach.teacher.network, approach.prototypes.draw(5, batch)
    for index, head in enumerate(network.heads):
        new, old = (head.reduce(each.hidden(images)[index]) for each in (network, teacher))
        means, total = approach.prototypes.means[index], 0.0
        for value, known, target in zip(new, old, train.targets, strict=True):
            alike = max(F.cosine_similarity(value.flatten(), mean.flatten(), 0).item() for mean in means)
            error = F.cross_entropy(head.alone(value[None])[0] / 0.2, target).item()
            total += (1 - alike) * error / len(batch) + 0.5 * alike * (value - known).norm().item()
        replayed = F.cross_entropy(head.alone(means[chosen]) / 0.2, approach.prototypes.targets[chosen]).item()
        assert loss[index].item() == pytest.approx(total + 2 * replayed, rel=1e-4)


def test_after_the_first_task_only_centres_of_kernels_change(prepared, toy_benchmark, toy_trainer):
    approach, network = prepared()
    states = []
    for task in toy_benchmark().tasks[:2]:
        network.grow(task.num_classes, 0)
        network.train_old_rows(approach.trains_old_rows)
        toy_trainer.fit(Fit(network, approach.loss, approach.training_set(task), parameters=approach.learns(network)))
        approach.end_task(task, network, toy_trainer)
        states.append({name: value.clone() for name, value in network.backbone.state_dict().items()})
    changed = {name: states[1][name] - value for name, value in states[0].items()}
    (kernel,) = (name for name, value in changed.items() if value.any())
    assert kernel.endswith("weight.original")
    assert changed[kernel][:, :, 1, 1].all()
    changed[kernel][:, :, 1, 1] = 0
    assert not changed[kernel].any()


def test_confidences_are_at_the_temperature_of_training(toy_network):
    network, images = toy_network("sdn", (2, 2)).eval(), torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(SSRE(temperature=0.2).answer(network, images), network(images) / 0.2)
