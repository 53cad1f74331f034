"""Several prototypes of each class: densities that are summed by hand, and clusters that anyone sees."""

import numpy
import pytest
import torch
from scipy.special import logsumexp

from cl_ac.classifiers.gaussian import Gaussian
from cl_ac.classifiers.latent_prototypes import LatentPrototypes, clusters
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory


def test_clusters_lie_inside_classes():
    place = torch.tensor([0, 1, 0, 1, 0, 1, 5, 6, 5])
    targets = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    found = clusters(10.0 * place[:, None] + torch.rand(9, 2), targets, 2)
    assert torch.equal(found // 2, targets)
    for target in (0, 1):
        members = targets == target
        assert torch.equal(found[members] == found[members][0], place[members] == place[members][0])


def test_a_class_has_the_mean_density_of_its_prototypes(toy_benchmark, toy_trainer, toy_network):
    network, tasks = toy_network("sdn", (2, 2, 2)).eval(), toy_benchmark().tasks
    classifier = LatentPrototypes(prototypes=3, aggregation="own")
    for task in tasks:
        classifier.update(task, network, toy_trainer, Memory())
    found = next(features for features, _ in classifier.passes(network, tasks[0].test, toy_trainer))
    for index, features in enumerate(found):
        statistics, x = classifier.statistics(index), features.double().numpy()
        means, freedom = statistics.means.numpy(), statistics.counts.sum().item() - 1
        covariance = statistics.scatter.numpy() / freedom
        inverse = numpy.linalg.inv(covariance + numpy.trace(covariance) / freedom * numpy.eye(len(covariance)))
        scores = x @ inverse @ means.T - 0.5 * numpy.einsum("pd,de,pe->p", means, inverse, means)
        expected = logsumexp(scores.reshape(len(x), -1, 3), axis=2)
        apart = classifier.score(index, features).double().numpy() - expected
        # Unnormalised: equal up to a constant of each sample.
        assert numpy.allclose(apart, apart[:, :1], atol=1e-2)


def test_one_prototype_is_the_gaussian(toy_benchmark, toy_trainer, toy_network):
    network, task = toy_network("sdn", (2, 2, 2)).eval(), toy_benchmark().tasks[0]
    one, plain = LatentPrototypes(aggregation="own"), Gaussian()
    for classifier in (one, plain):
        classifier.update(task, network, toy_trainer, Memory())
    features = one.features(network, next(toy_trainer.loader(task.test).in_order(10)))
    assert torch.equal(one.logits(features), plain.logits(features))


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match=r"classifier\.prototypes is 0; it must be at least 1"):
        LatentPrototypes(prototypes=0)
    with pytest.raises(ConfigurationError, match="take 1 of them"):
        LatentPrototypes(prototypes=2, shrinkage="ledoit_wolf")


def test_weights_that_are_all_zero_are_uniform(toy_benchmark, toy_trainer, toy_network):
    network, task = toy_network("sdn", (2, 2, 2)).eval(), toy_benchmark(validation=0.3).tasks[0]
    classifier = LatentPrototypes(sparsity=1e6)
    classifier.update(task, network, toy_trainer, Memory())
    rows = torch.ones(len(network), len(network)).tril()
    assert torch.allclose(classifier.weights, rows / rows.sum(1, keepdim=True))
