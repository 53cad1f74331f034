"""Prototypes: statistics of classes at every exit, and what is replayed of them."""

from functools import partial

import pytest
import torch

from cl_ac.classifiers.prototypes import Prototypes, linear_logits, reduced, reduced_sizes, statistics
from cl_ac.data.batches import Batch
from cl_ac.data.seeding import generator
from cl_ac.network import Exits


@pytest.fixture
def taken(toy_network, toy_benchmark, toy_trainer):
    """Prototypes of two tasks, the network that they were taken from, and a batch of the third task."""

    def make(rank=0, exits="sdn"):
        network, tasks, prototypes = toy_network(exits, (2, 2)).eval(), toy_benchmark().tasks, Prototypes(rank)
        for task in tasks[:2]:
            prototypes.add(task, network, toy_trainer)
        images = toy_trainer.augmentation.apply(tasks[2].train.images)
        batch = Batch(images, tasks[2].train.targets, tasks[2], stream=partial(generator, 0, "test"))
        return prototypes, network, batch

    return make


def test_statistics_by_definition():
    values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 4.0], [3.0, 4.0]])
    mean, directions, variance = statistics(values, 3)
    torch.testing.assert_close(mean, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(directions.T @ directions, torch.tensor([[4 / 3, 0.0], [0.0, 16 / 3]]))
    assert variance == pytest.approx(10 / 3)
    leading = statistics(values, 1)[1]
    torch.testing.assert_close(leading.abs(), torch.tensor([[0.0, 4 / 3**0.5]]))


@pytest.mark.parametrize("count", [3, 9])
def test_directions_keep_the_covariance_of_few_and_of_many_samples(count):
    values = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(0))
    _, directions, variance = statistics(values, 6)
    flat, covariance = directions.flatten(1), torch.cov(values.flatten(1).T)
    torch.testing.assert_close(flat.T @ flat, covariance, rtol=1e-4, atol=1e-5)
    assert variance == pytest.approx(covariance.trace().item() / 6)


def test_one_image_has_no_spread():
    mean, directions, variance = statistics(torch.ones(1, 3), 2)
    assert mean.tolist() == [1, 1, 1]
    assert not directions.any()
    assert variance == 0


def test_means_stand_for_images(taken, toy_benchmark, toy_trainer):
    prototypes, network, _ = taken()
    assert prototypes.targets.tolist() == [0, 1, 2, 3]
    assert [mean[0].numel() for mean in prototypes.means] == reduced_sizes(network)
    train = toy_benchmark()[1].train
    images = toy_trainer.augmentation.apply(train.select((train.targets == 3).nonzero()[:, 0]).images)
    chosen = prototypes.at(torch.tensor([3]))
    torch.testing.assert_close(network.answer(chosen)[:, 0], network(images).mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(linear_logits(network, reduced(network, images)), network(images))


def test_replayed_noise_has_the_spread_that_was_kept(taken):
    prototypes, _, batch = taken(rank=3)
    chosen = torch.full((20000,), 2)
    for index, value in enumerate(prototypes.gaussian(chosen, 1e-6, batch)):
        directions = prototypes.directions[index][2].flatten(1)
        expected = directions.T @ directions
        scale = expected.diagonal().max()
        torch.testing.assert_close(torch.cov(value.flatten(1).T) / scale, expected / scale, rtol=0, atol=0.05)
        torch.testing.assert_close(value.mean(0), prototypes.means[index][2], rtol=0.05, atol=0.02)
    radius = torch.tensor([1.0, 2.0, 3.0])
    for r, mean, value in zip(radius, prototypes.means, prototypes.spherical(chosen, radius, batch), strict=True):
        torch.testing.assert_close((value - mean[2]).std(), r, rtol=0.05, atol=0)


def test_noise_of_single_features_is_independent_of_that_along_directions(taken):
    prototypes, _, batch = taken(rank=4)
    chosen = torch.full((20000,), 2)
    jitter = prototypes.variances[-1, 2].item()
    value = prototypes.gaussian(chosen, jitter, batch)[-1]
    directions = prototypes.directions[-1][2]
    expected = directions.T @ directions + jitter * torch.eye(4)
    scale = expected.diagonal().max()
    torch.testing.assert_close(torch.cov(value.T) / scale, expected / scale, rtol=0, atol=0.05)


def test_moves_and_cosines_are_in_float32_under_autocast(taken):
    prototypes, network, batch = taken()
    values = reduced(network, batch.images)
    wanted = linear_logits(network, values), prototypes.likeness(values)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_logits(network, values), prototypes.likeness(values)
    assert all(torch.equal(first, second) for first, second in zip(found, wanted, strict=True))


def test_the_final_exit_draws_the_same_with_any_number_of_acs(taken):
    (three, _, batch), (alone, _, _) = taken(2), taken(2, Exits([], []))
    chosen = three.draw(5, batch)
    assert torch.equal(chosen, alone.draw(5, batch))
    assert torch.equal(three.gaussian(chosen, 0.1, batch)[-1], alone.gaussian(chosen, 0.1, batch)[-1])


def test_a_state_brings_its_prototypes(taken):
    prototypes, _, _ = taken(2)
    other = Prototypes(2)
    other.load_state_dict(prototypes.state_dict())
    for name in ("means", "directions"):
        pairs = zip(getattr(prototypes, name), getattr(other, name), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)


def test_a_class_without_images_has_no_prototype(toy_network, toy_benchmark, toy_trainer):
    task, prototypes = toy_benchmark()[0], Prototypes()
    object.__setattr__(task, "train", task.train.select((task.train.targets == 1).nonzero()[:, 0]))
    prototypes.add(task, toy_network("sdn"), toy_trainer)
    assert prototypes.targets.tolist() == [1]
