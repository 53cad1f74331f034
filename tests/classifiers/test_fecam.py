"""FeCAM's correlations by hand and its distances against numpy."""

import numpy
import pytest
import torch

from cl_ac.classifiers.fecam import FeCAM, covariance, precision, transformed
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory


def test_a_singular_covariance_is_shrunk_and_scaled_to_a_correlation():
    singular = torch.tensor([[4.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    correlation = torch.linalg.inv(precision(singular, 1.0, 0.0))
    rho = 2 / numpy.sqrt(6.5 * 3.5)
    torch.testing.assert_close(correlation, torch.tensor([[1, rho], [rho, 1]]))
    # Off the diagonal too: (2 + 2) / √(6.5 · 3.5).
    assert torch.linalg.inv(precision(singular, 1.0, 1.0))[0, 1].item() == pytest.approx(2 * rho)


def test_features_without_variance_and_single_samples_stay_finite():
    for rows in (torch.ones(5, 3), torch.rand(1, 3), torch.empty(0, 3)):
        torch.testing.assert_close(precision(covariance(rows.double()), 1.0, 1.0), torch.eye(3, dtype=torch.float64))


def test_the_transformation_keeps_signs():
    assert transformed(torch.tensor([4.0, -9.0, 0.0]), 0.5).tolist() == [2.0, -3.0, 0.0]


def test_distances_are_those_of_each_class_and_task(toy_network, toy_benchmark, toy_trainer):
    network, benchmark, classifier = toy_network("sdn", (2, 2)).eval(), toy_benchmark(), FeCAM(temperature=2.0, side=2)
    for task in benchmark[:2]:
        classifier.update(task, network, toy_trainer, Memory())
    with torch.no_grad():
        test = classifier.features(network, toy_trainer.augmentation.apply(benchmark[1].test.images))
    scores = classifier.scores(test).numpy()
    for index in range(3):
        u = numpy.sqrt(test[index].double().numpy())
        u /= numpy.linalg.norm(u, axis=1, keepdims=True)
        for task in benchmark[:2]:
            passes = list(classifier.passes(network, task.train, toy_trainer))
            x = numpy.sqrt(torch.cat([features[index] for features, _ in passes]).double().numpy())
            for target in range(task.classes.start, task.classes.stop):
                rows = x[task.train.targets.numpy() == target]
                size = rows.shape[1]
                sigma, off = numpy.cov(rows.T), ~numpy.eye(size, dtype=bool)
                sigma = sigma + sigma.diagonal().mean() * numpy.eye(size) + sigma[off].mean() * off
                deviation = numpy.sqrt(sigma.diagonal())
                inverse = numpy.linalg.inv(sigma / numpy.outer(deviation, deviation))
                mean = rows.mean(0) / numpy.linalg.norm(rows.mean(0))
                expected = -numpy.einsum("nd,de,ne->n", u - mean, inverse, u - mean) / 2
                numpy.testing.assert_allclose(scores[index][:, target], expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{"tukey": 0.0}, {"temperature": 0.0}, {"diagonal": -1.0}, {"off_diagonal": -1.0}])
def test_impossible_options(options):
    with pytest.raises(ConfigurationError, match=f"classifier.{next(iter(options))} is"):
        FeCAM(**options)
