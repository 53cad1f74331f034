"""A teacher stays as it was; only the statistics that it normalises with may follow the new data."""

import pytest
import torch
from torch import nn

from cl_ac.approaches.lwf import LwF
from cl_ac.network import ExitNetwork
from cl_ac.teacher import Teacher

STATISTICS = ["frozen", "batch", "pretrained", "continuous"]


def statistics(module):
    return {name: value.clone() for name, value in module.state_dict().items() if "running_" in name}


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.fixture
def images():
    return torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 3 + 2


@pytest.mark.parametrize("kind", STATISTICS)
def test_neither_weights_nor_the_student_change(kind, toy_network, toy_benchmark, toy_trainer, images):
    network = toy_network("sdn")
    teacher = Teacher(kind)
    teacher.update(network)
    before, student = weights(teacher.network), statistics(network)
    teacher.begin_task(toy_benchmark()[0], toy_trainer)
    logits = teacher(images)
    assert not logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.named_parameters())
    assert all(torch.equal(value, student[name]) for name, value in statistics(network).items())


def test_the_copy_is_deep(toy_network, images):
    network = toy_network()
    teacher = Teacher()
    teacher.update(network)
    before = teacher(images)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network.train()(images)
    assert torch.equal(teacher(images), before)


def test_batch_statistics_are_those_of_the_batch_at_hand(toy_network, images):
    teacher = Teacher("batch")
    teacher.update(toy_network("sdn"))
    reference = toy_network("sdn").train()
    expected = reference(images)
    assert torch.equal(teacher(images), expected)
    for buffer in statistics(teacher.network):
        teacher.network.get_buffer(buffer).fill_(7.0)
    torch.testing.assert_close(teacher(images), expected)


@pytest.mark.parametrize("kind", STATISTICS)
def test_frozen_stages_keep_their_statistics(kind, toy_network, toy_benchmark, toy_trainer, images):
    network = toy_network("sdn")
    network.backbone.freeze(network.backbone.stage_names[0])
    teacher = Teacher(kind)
    teacher.update(network)
    teacher.begin_task(toy_benchmark()[0], toy_trainer)
    teacher(images)
    stage, taught = network.train().backbone.stages[0], teacher.network.backbone.stages[0]
    assert statistics(stage)
    assert all(torch.equal(value, statistics(stage)[name]) for name, value in statistics(taught).items())
    assert torch.equal(taught(images), stage(images))
    others = [name for name in statistics(teacher.network) if not name.startswith("backbone.stages.0.")]
    moved = [not torch.equal(statistics(teacher.network)[name], statistics(network)[name]) for name in others]
    assert others
    assert all(moved) == (kind != "frozen")


def test_pretrained_statistics_are_the_mean_over_batches_of_the_new_data(toy_network, toy_benchmark, toy_trainer):
    task = toy_benchmark()[0]
    teacher = Teacher("pretrained")
    teacher.update(toy_network())
    teacher.begin_task(task, toy_trainer)
    convolution, norm = teacher.network.backbone.stages[0][:2]
    stream = toy_trainer.generator("teacher statistics", 0)
    size = toy_trainer.training.batch_size
    batches = [b for b in toy_trainer.loader(task.train).shuffled(size, len(task.train), stream, task) if len(b) > 1]
    means = [convolution(batch.images).mean((0, 2, 3)) for batch in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert norm.momentum == 0.1
    held = statistics(teacher.network)
    teacher(batches[0].images)
    assert all(torch.equal(value, held[name]) for name, value in statistics(teacher.network).items())


def test_continuous_statistics_move_first_and_then_teach(toy_network, images):
    teacher, reference = Teacher("continuous"), toy_network("sdn")
    teacher.update(reference)
    for _ in range(3):
        reference.train()(images)
        expected = reference.eval()(images)
        assert torch.equal(teacher(images), expected)


def test_no_dropout_is_switched_on(toy_network, images):
    network = toy_network()
    network.backbone.stages[2].append(nn.Dropout(0.5))
    teacher = Teacher("batch")
    teacher.update(network)
    teacher.train()
    assert torch.equal(teacher(images), teacher(images))
    assert not teacher.network.backbone.stages[2][-1].training


def test_it_gives_whatever_is_asked_for(toy_network, images):
    teacher = Teacher()
    teacher.update(toy_network("sdn"))
    assert [tuple(value.shape) for value in teacher(images, ExitNetwork.features)] == [(16, 36), (16, 36), (16, 4)]


@pytest.mark.parametrize("kind", STATISTICS)
def test_its_state_survives_saving(kind, toy_network, toy_benchmark, toy_trainer, images):
    approach, network = LwF(teacher_bn=kind), toy_network("sdn", (2,))
    approach.end_task(toy_benchmark()[0], network, toy_trainer)
    approach.begin_task(toy_benchmark()[1], network, toy_trainer)
    approach.teacher(images)
    network.grow(2, 0)
    state = {name: value.clone() for name, value in approach.state_dict().items() if isinstance(value, torch.Tensor)}
    state |= {name: value for name, value in approach.state_dict().items() if name not in state}
    expected = approach.teacher(images)
    restored = LwF(teacher_bn=kind)
    restored.restore(state, network)
    assert torch.equal(restored.teacher(images), expected)
