"""Analytic classifiers task by task against numpy's regression on all data at once."""

from dataclasses import replace

import numpy
import pytest
import torch

from cl_ac.classifiers import analytic
from cl_ac.classifiers.analytic import ACIL, DSAL, RIDGES, RanPAC, best_ridge, regression
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.memory import Memory
from cl_ac.network import NO_EXITS


@pytest.fixture
def network(toy_network):
    return toy_network("sdn", (2, 2, 2)).eval()


def learned(classifier, tasks, network, trainer):
    for task in tasks:
        classifier.update(task, network, trainer, Memory())
    return classifier


def inputs(classifier, tasks, network, trainer, index: int) -> list[numpy.ndarray]:
    """Random features before their activation of each task's data at one exit, in float64: [N, M] each."""
    parts = []
    for task in tasks:
        passes = classifier.passes(network, task.train, trainer)
        parts.append(torch.cat([classifier.widened(index, features[index]) for features, _ in passes]).double().numpy())
    return parts


def ridge(x: numpy.ndarray, y: numpy.ndarray, penalty: float) -> numpy.ndarray:
    """Regression as least squares with rows of √penalty · I below the data: no normal equations."""
    below = numpy.sqrt(penalty) * numpy.eye(x.shape[1])
    stacked = numpy.concatenate([x, below]), numpy.concatenate([y, numpy.zeros((x.shape[1], y.shape[1]))])
    return numpy.linalg.lstsq(*stacked, rcond=None)[0]


@pytest.mark.parametrize("kind", [ACIL, RanPAC])
def test_task_by_task_equals_the_regression_on_all_data(toy_benchmark, toy_trainer, network, kind):
    tasks = toy_benchmark().tasks
    classifier = learned(kind(width=20, ridge=0.1), tasks, network, toy_trainer)
    labels = numpy.eye(6)[numpy.concatenate([task.train.targets.numpy() for task in tasks])]
    for index in range(3):
        x = numpy.maximum(numpy.concatenate(inputs(classifier, tasks, network, toy_trainer, index)), 0)
        expected = ridge(x, labels, 0.1)
        sums = (getattr(classifier, f"{name}_{index}") for name in ("gram", "cross"))
        numpy.testing.assert_allclose(regression(*sums, 0.1).numpy(), expected, atol=1e-8, rtol=1e-8)
        numpy.testing.assert_allclose(getattr(classifier, f"weight_{index}").numpy(), expected, atol=1e-5)


def test_the_second_stream_learns_what_is_left_of_new_classes(toy_benchmark, toy_trainer, network):
    tasks = toy_benchmark().tasks
    classifier = learned(DSAL(width=20, ridge=0.1, compensation=0.6), tasks, network, toy_trainer)
    raw = inputs(classifier, tasks, network, toy_trainer, 1)
    labels = [numpy.eye(6)[task.train.targets.numpy()] for task in tasks]
    left = []
    for number, task in enumerate(tasks, 1):
        main = ridge(numpy.maximum(numpy.concatenate(raw[:number]), 0), numpy.concatenate(labels[:number]), 0.1)
        left.append(labels[number - 1] - numpy.maximum(raw[number - 1], 0) @ main)
        left[-1][:, task.old_classes] = 0
        left[-1][:, task.classes.stop :] = 0
    second = ridge(numpy.tanh(numpy.concatenate(raw)), numpy.concatenate(left), 0.1)
    with torch.no_grad():
        features = classifier.features(network, torch.randn(4, 1, 6, 6))
    widened = classifier.widened(1, features[1]).double().numpy()
    expected = (numpy.maximum(widened, 0) @ main + 0.6 * numpy.tanh(widened) @ second) / classifier.temperature
    numpy.testing.assert_allclose(classifier.score(1, features[1]).numpy(), expected, atol=1e-3, rtol=1e-3)


def test_the_final_exit_has_the_same_random_features_with_any_number_of_exits(toy_network, toy_benchmark, toy_trainer):
    task = toy_benchmark()[0]
    several, alone = (learned(ACIL(8), [task], toy_network(exits).eval(), toy_trainer) for exits in ("sdn", NO_EXITS))
    assert torch.equal(several.projection_2, alone.projection_0)
    assert not torch.equal(several.projection_0, several.projection_1)


def test_random_features_of_ranpac_are_normal(toy_trainer):
    drawn = RanPAC(width=400).projection(50, toy_trainer.generator("test"))
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)
    assert drawn.std().item() == pytest.approx(1, abs=0.02)
    assert drawn.abs().max() > 3


@pytest.mark.parametrize("noise", [0.1, 3.0, 1000.0])
def test_the_best_ridge_is_that_of_regressions_tried_one_by_one(noise):
    draw = numpy.random.default_rng(0)
    x, held_out = draw.normal(size=(30, 20)), draw.normal(size=(12, 20))
    slope = draw.normal(size=(20, 3))
    y, wanted = (rows @ slope + noise * draw.normal(size=(len(rows), 3)) for rows in (x, held_out))
    ridges = [1e-4, 1e-2, 1.0, 1e2, 1e4]
    errors = [((held_out @ ridge(x, y, each) - wanted) ** 2).mean() for each in ridges]
    sums = (torch.from_numpy(value) for value in (x.T @ x, x.T @ y, held_out.T @ held_out, held_out.T @ wanted))
    assert best_ridge(*sums, ridges) == ridges[numpy.argmin(errors)]


def test_a_chosen_ridge_serves_the_regression_on_all_data(toy_benchmark, toy_trainer, network):
    tasks = toy_benchmark().tasks
    classifier = learned(RanPAC(width=20), tasks, network, toy_trainer)
    assert not [name for name in classifier.state_dict() if name.startswith(("learned_", "held_out_"))]
    labels = numpy.eye(6)[numpy.concatenate([task.train.targets.numpy() for task in tasks])]
    order = torch.randperm(len(tasks[2].train), generator=toy_trainer.generator("held out", 2)).numpy()
    cut = 4 * len(order) // 5
    for index in range(3):
        parts = [numpy.maximum(part, 0) for part in inputs(classifier, tasks, network, toy_trainer, index)]
        # The ridge is that of the last task's images alone.
        x, y = parts[2][order], labels[-len(order) :][order]
        errors = [((x[cut:] @ ridge(x[:cut], y[:cut], each) - y[cut:]) ** 2).mean() for each in RIDGES]
        chosen = getattr(classifier, f"ridge_{index}").item()
        assert chosen == RIDGES[numpy.argmin(errors)]
        expected = ridge(numpy.concatenate(parts), labels, chosen)
        found = regression(*classifier.sums("", index), chosen).numpy()
        numpy.testing.assert_allclose(found, expected, atol=1e-7, rtol=1e-7)
        assert torch.equal(getattr(classifier, f"weight_{index}"), torch.from_numpy(found).float())


def test_ridges_that_rounding_would_lose_are_not_tried(toy_benchmark, toy_trainer, network, monkeypatch):
    monkeypatch.setattr(RanPAC, "projection", lambda self, features, generator: torch.full((features, 40), 1e5))
    monkeypatch.setattr(analytic, "best_ridge", lambda *given: min(given[-1]))
    classifier = learned(RanPAC(width=40), toy_benchmark().tasks, network, toy_trainer)
    for index in range(3):
        rounding = torch.finfo(torch.float64).eps * classifier.sums("", index)[0].trace()
        assert rounding <= getattr(classifier, f"ridge_{index}") < 10 * rounding


def test_with_a_fixed_ridge_the_order_of_tasks_does_not_matter(toy_benchmark, toy_trainer, network):
    tasks = toy_benchmark().tasks
    forwards = learned(RanPAC(width=20, ridge=1.0), tasks, network, toy_trainer)
    moved = []
    for position, number in enumerate((2, 0, 1)):
        # The classes of a task are numbered by its place in the order.
        train = tasks[number].train
        train = replace(train, targets=train.targets - 2 * number + 2 * position)
        moved.append(replace(tasks[position], train=train))
    other = learned(RanPAC(width=20, ridge=1.0), moved, network, toy_trainer)
    for index in range(3):
        expected = getattr(forwards, f"weight_{index}")[:, [4, 5, 0, 1, 2, 3]]
        torch.testing.assert_close(getattr(other, f"weight_{index}"), expected, rtol=1e-5, atol=1e-6)


def test_nothing_to_hold_out_is_one_sentence(toy_benchmark, toy_trainer, network):
    task = toy_benchmark()[0]
    task = replace(task, train=task.train.select(torch.tensor([0])))
    with pytest.raises(UserError, match=r"^classifier.ridge is null, .* task 0 has 1 training images; give a number"):
        learned(RanPAC(width=8), [task], network, toy_trainer)


@pytest.mark.parametrize("options", [{"width": 0}, {"ridge": 0.0}, {"temperature": 0.0}])
def test_impossible_options(options):
    with pytest.raises(ConfigurationError, match=f"classifier.{next(iter(options))} is 0"):
        ACIL(**options)


def test_a_ridge_that_rounding_loses_is_one_sentence():
    gram = torch.full((3, 3), 4e6, dtype=torch.float64)
    with pytest.raises(UserError, match=r"^ridge is 1e-12, too small beside sums of features of up to 4e\+06"):
        regression(gram, torch.ones(3, 1, dtype=torch.float64), 1e-12)
