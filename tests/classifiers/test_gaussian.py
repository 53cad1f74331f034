"""Ledoit & Wolf's shrinkage of the Gaussian classifier against scikit-learn, in any order of tasks."""

from dataclasses import replace

import numpy
import pytest
import torch
from sklearn import covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cl_ac.classifiers.gaussian import Gaussian, Statistics, discriminant, ledoit_wolf, shrunk_covariance
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory


def drawn(samples: int, features: int, classes: int = 3):
    """Statistics of correlated classes, their fourth powers, and the features without their classes' means [N, D]."""
    draw = numpy.random.default_rng(samples)
    x = draw.normal(size=(samples, features)) @ draw.normal(size=(features, features))
    y = numpy.arange(samples) % classes
    x += 3 * draw.normal(size=(classes, features))[y]
    apart = x - numpy.stack([x[y == target].mean(0) for target in range(classes)])[y]
    known = Statistics.of(torch.from_numpy(x), torch.from_numpy(y), classes)
    return known, torch.tensor((apart**2).sum(1) ** 2).sum(), apart


@pytest.mark.parametrize(("samples", "features"), [(30, 5), (12, 40), (600, 4)])
def test_the_estimate_is_that_of_scikit_learn(samples, features):
    known, fourth_powers, apart = drawn(samples, features)
    expected, share = covariance.ledoit_wolf(apart, assume_centered=True)
    assert ledoit_wolf(known, fourth_powers).item() == pytest.approx(share, rel=1e-8)
    weight, bias = discriminant(known, fourth_powers=fourth_powers)
    means = known.means.numpy()
    # The divisor of the covariance is N − 1 in all that the classifier does, N in scikit-learn.
    wanted = means @ numpy.linalg.inv(expected * samples / (samples - 1))
    numpy.testing.assert_allclose(weight.numpy(), wanted, rtol=1e-8, atol=1e-8 * abs(wanted).max())
    numpy.testing.assert_allclose(bias.numpy(), -0.5 * (wanted * means).sum(1), rtol=1e-8)


@pytest.mark.parametrize("rows", [[[0.0, 0, 0]] * 4, [[1.0, 2, 3]] * 4, [[1.0, 2, 3], [3, 2, 1]], [[1.0, 0, 0]]])
def test_without_noise_in_the_covariance_weights_are_finite(rows):
    x = torch.tensor(rows, dtype=torch.float64)
    known = Statistics.of(x, torch.zeros(len(x), dtype=torch.int64), 1)
    fourth_powers = (x - known.means[0]).square().sum(1).square().sum()
    assert all(part.isfinite().all() for part in discriminant(known, fourth_powers=fourth_powers))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tasks_in_any_order_give_what_all_data_at_once_give(toy_benchmark, toy_trainer, toy_network, order):
    network, tasks = toy_network("sdn", (2, 2, 2)).eval(), toy_benchmark().tasks
    classifier, targets, parts = Gaussian(shrinkage="ledoit_wolf"), [], []
    for position, number in enumerate(order):
        # The classes of a task are numbered by its place in the order.
        train = tasks[number].train
        moved = replace(train, targets=train.targets - 2 * number + 2 * position)
        task = replace(tasks[position], train=moved)
        classifier.update(task, network, toy_trainer, Memory())
        parts += [features for features, _ in classifier.passes(network, moved, toy_trainer)]
        targets.append(moved.targets)
    y = torch.cat(targets)
    for index in range(3):
        x = torch.cat([features[index] for features in parts]).double()
        apart = x - torch.stack([x[y == target].mean(0) for target in range(6)])[y]
        share = covariance.ledoit_wolf(apart.numpy(), assume_centered=True)[1]
        powers = getattr(classifier, f"fourth_powers_{index}")
        assert ledoit_wolf(classifier.statistics(index), powers).item() == pytest.approx(share, rel=1e-8)
        weight, _ = discriminant(classifier.statistics(index), fourth_powers=powers)
        assert torch.equal(getattr(classifier, f"weight_{index}"), weight.float())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_classes_shrunk_one_by_one_answer_as_the_discriminant_analysis_of_scikit_learn(
    toy_benchmark, toy_trainer, toy_network, order
):
    network, tasks = toy_network("sdn", (2, 2, 2)).eval(), toy_benchmark().tasks
    classifier, targets, parts = Gaussian(shrinkage="class_ledoit_wolf"), [], []
    for position, number in enumerate(order):
        train = tasks[number].train
        moved = replace(train, targets=train.targets - 2 * number + 2 * position)
        classifier.update(replace(tasks[position], train=moved), network, toy_trainer, Memory())
        parts += [features for features, _ in classifier.passes(network, moved, toy_trainer)]
        targets.append(moved.targets)
    y = torch.cat(targets)
    for index in range(3):
        x = torch.cat([features[index] for features in parts]).double()
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[1 / 6] * 6).fit(
            x.numpy(), y.numpy()
        )
        shares = y.bincount() / len(y)
        pooled = sum(share * shrunk_covariance(x[y == target]) for target, share in enumerate(shares))
        torch.testing.assert_close(
            sum(share * shrunk_covariance(x[y == target]) for target, share in enumerate([1 / 6] * 6)),
            torch.from_numpy(oracle.covariance_),
        )
        own = torch.linalg.solve(pooled, classifier.statistics(index).means.T).T * (1 - 1 / len(y))
        torch.testing.assert_close(getattr(classifier, f"weight_{index}").double(), own, rtol=1e-4, atol=1e-4)


def test_a_class_of_one_sample_or_of_equal_ones_scatters_nothing():
    assert torch.equal(shrunk_covariance(torch.ones(1, 3, dtype=torch.float64)), torch.zeros(3, 3, dtype=torch.float64))
    assert torch.equal(shrunk_covariance(torch.ones(4, 3, dtype=torch.float64)), torch.zeros(3, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"shrinkage": "ledoitwolf"}, "shrinkage.*did you mean 'ledoit_wolf'"),
        ({"shrinkage": "ledoit_wolf", "covariance": "diagonal"}, "covariance is diagonal; .* full covariance only"),
    ],
)
def test_impossible_options(options, match):
    with pytest.raises(ConfigurationError, match=match):
        Gaussian(**options)
