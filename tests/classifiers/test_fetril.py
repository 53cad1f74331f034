"""FeTrIL's pseudo-features by hand, its machines against scikit-learn's, and what is kept of a task."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from cl_ac.benchmark import Task
from cl_ac.classifiers.fetril import FeTrIL, class_means, separate, with_pseudo_features
from cl_ac.data.samples import Samples
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory


def task_of(sizes: tuple[int, ...]) -> Task:
    nothing = Samples(torch.empty(0, 1, 6, 6, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    return Task(len(sizes) - 1, sizes, nothing, nothing, nothing)


def test_a_feature_of_the_nearest_new_class_is_moved_to_the_old_mean():
    # Old class 0 lies at (0, 1). Of the new ones, 1 with its mean at (1, 0) is nearer than 2 at (9, 9).
    features = torch.tensor([[2.0, 0.0], [0.0, 0.0], [9.0, 9.0]])
    targets, task = torch.tensor([1, 1, 2]), task_of((1, 2))
    means = torch.cat([torch.tensor([[0.0, 1.0]]), class_means(features, targets, task)])
    assert means.tolist() == [[0.0, 1.0], [1.0, 0.0], [9.0, 9.0]]
    rows, classes = with_pseudo_features(features, targets, means, task)
    assert rows[:3].equal(features)
    assert rows[3:].tolist() == [[1.0, 1.0], [-1.0, 1.0]]
    assert classes.tolist() == [1, 1, 2, 0, 0]


def test_a_new_class_without_samples_lends_nothing():
    features, targets, task = torch.tensor([[5.0, 5.0]]), torch.tensor([2]), task_of((1, 2))
    means = torch.cat([torch.tensor([[0.1, 0.0]]), class_means(features, targets, task)])
    rows, classes = with_pseudo_features(features, targets, means, task)
    torch.testing.assert_close(rows[1:], torch.tensor([[0.1, 0.0]]))
    assert classes.tolist() == [2, 0]


@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_the_classifier_is_scikit_learns(loss):
    stream = torch.Generator().manual_seed(0)
    targets = torch.arange(3).repeat_interleave(20)
    features = torch.randn(60, 4, generator=stream, dtype=torch.float64) + 1.5 * F.one_hot(targets, 4)
    found = separate(features, targets, 3, loss, strength=2.0)
    # scikit-learn's cross-entropy does not hold the bias back: as a constant feature it is held back as well.
    inputs = F.pad(features, (0, 1), value=1.0)
    kind = LinearSVC if loss == "hinge" else LogisticRegression
    theirs = kind(C=2.0, tol=1e-8, max_iter=100_000, fit_intercept=False).fit(inputs, targets)
    torch.testing.assert_close(found, torch.from_numpy(theirs.coef_), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_old_classes_are_known_without_their_samples(toy_network, toy_benchmark, toy_trainer, loss):
    network, benchmark, classifier = toy_network("sdn", (2, 2)).eval(), toy_benchmark(per_class=30), FeTrIL(loss, 100.0)
    for task in benchmark[:2]:
        classifier.update(task, network, toy_trainer, Memory())
    for task in benchmark[:2]:
        logits = toy_trainer.predict(
            network, task.test, lambda images: classifier.logits(classifier.features(network, images))
        )
        assert logits.shape == (3, 10, 4)
        assert (logits.argmax(-1) == task.test.targets).double().mean(1).min() >= 0.7
    # Of the first task there is nothing but a mean of each class.
    kept = {name: tuple(value.shape) for name, value in classifier.state_dict().items() if name.endswith("_2")}
    assert kept == {"means_2": (4, 4), "weight_2": (4, 5)}


@pytest.mark.parametrize("options", [{"loss": "margin"}, {"strength": 0.0}, {"temperature": -1.0}])
def test_impossible_options(options):
    with pytest.raises(ConfigurationError, match=f"classifier.{next(iter(options))}|{next(iter(options.values()))}"):
        FeTrIL(**options)
