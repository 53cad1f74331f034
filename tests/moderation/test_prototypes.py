"""Prototypes at every layer, against NumPy, SciPy and scikit-learn one layer at a time."""

import numpy
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import softmax

from cl_ac.moderation.prototypes import LayerPrototypes, LayerStatistics


@pytest.fixture
def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Features [3, 40, 5] of 40 texts at three layers, and the one of four groups that each belongs to."""
    stream = torch.Generator().manual_seed(0)
    groups = torch.arange(40) % 4
    return torch.randn(3, 40, 5, generator=stream) + groups[None, :, None], groups


def precision(layer: numpy.ndarray, groups: numpy.ndarray, bayes: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
    means = numpy.stack([layer[groups == group].mean(0) for group in range(4)])
    centred = layer - means[groups]
    covariance = centred.T @ centred / (len(layer) - 1)
    identity = numpy.eye(layer.shape[1])
    if bayes:
        within = (len(layer) - 1) * covariance + numpy.trace(covariance) * identity
        return means, layer.shape[1] * numpy.linalg.inv(within)
    return means, numpy.linalg.inv(covariance + numpy.trace(covariance) / (len(layer) - 1) * identity)


@pytest.mark.parametrize("scale", ["bayes", "unit"])
def test_posteriors_are_those_of_the_paper(texts, scale):
    features, groups = texts
    labels = torch.arange(4)
    found = LayerPrototypes(LayerStatistics.of(features, groups, 4), torch.zeros(4).long(), labels, scale)
    posteriors = found.log_posteriors(features).exp()
    assert posteriors.shape == (3, 40, 1, 4)
    for layer, answers in zip(features.double().numpy(), posteriors, strict=True):
        means, inverse = precision(layer, groups.numpy(), scale == "bayes")
        scores = layer @ inverse @ means.T - 0.5 * numpy.einsum("cd,de,ce->c", means, inverse, means)
        assert numpy.allclose(answers[:, 0], softmax(scores, 1), atol=1e-6)


def test_distances_are_those_of_mahalanobis(texts):
    features, groups = texts
    found = LayerPrototypes(LayerStatistics.of(features, groups, 4), torch.zeros(4).long(), torch.arange(4))
    for layer, distances in zip(features.double().numpy(), found.distances(features), strict=True):
        means, inverse = precision(layer, groups.numpy(), False)
        expected = cdist(layer, means, "mahalanobis", VI=inverse).min(1) / 5**0.5
        assert numpy.allclose(distances, expected, atol=1e-6)


def test_merged_statistics_are_those_of_all_texts(texts):
    features, groups = texts
    parts = [LayerStatistics.of(features[:, part], groups[part], 4) for part in torch.arange(40).split([7, 20, 13])]
    merged, whole = parts[2].merge(parts[0]).merge(parts[1]), LayerStatistics.of(features, groups, 4)
    for name in ("counts", "means", "scatter"):
        assert torch.allclose(getattr(merged, name), getattr(whole, name), rtol=1e-12)


def test_sources_compete_apart_and_prototypes_share_what_a_label_has(texts):
    features, groups = texts
    statistics = LayerStatistics.of(features, groups, 4)
    # Two sources of two labels each: as if the others were not there, with the covariance of all.
    apart = LayerPrototypes(statistics, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), "unit")
    alone = LayerPrototypes(statistics, torch.zeros(4).long(), torch.arange(4), "unit").log_posteriors(features)
    expected = alone[:, :, 0].unflatten(2, (2, 2)).log_softmax(-1)
    assert torch.allclose(apart.log_posteriors(features), expected, atol=1e-9)
    # Two prototypes of one label: the mean of their densities.
    shared = LayerPrototypes(statistics, torch.zeros(4).long(), torch.tensor([0, 0, 1, 1]), "unit")
    both = alone[:, :, 0].exp().unflatten(2, (2, 2)).sum(-1)
    assert torch.allclose(shared.log_posteriors(features)[:, :, 0].exp(), both, atol=1e-9)


def test_a_prototype_without_texts_is_nobodys(texts):
    features, groups = texts
    found = LayerPrototypes(
        LayerStatistics.of(features, groups, 6), torch.zeros(6).long(), torch.tensor([0, 1, 2, 3, 3, 3]), "unit"
    )
    alone = LayerPrototypes(LayerStatistics.of(features, groups, 4), torch.zeros(4).long(), torch.arange(4), "unit")
    assert torch.allclose(found.log_posteriors(features), alone.log_posteriors(features))
