"""Drift of features and classifiers."""

import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.heads import GrowingCosine
from cl_ac.watching.drift import centred_gram, class_norms, linear_cka, measure
from cl_ac.watching.watch import Watch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_is_that_of_the_feature_space():
    x, y = random(20, 5) + 3, random(20, 7, seed=1)
    y[:, :5] += x
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    cross = (centred_y.T @ centred_x).norm().square()
    expected = cross / ((centred_x.T @ centred_x).norm() * (centred_y.T @ centred_y).norm())
    assert linear_cka(centred_gram(x), centred_gram(y)).item() == pytest.approx(expected.item())
    assert 0.01 < expected < 0.99


def test_cka_sees_no_rotation_scale_or_shift():
    x = random(20, 5)
    rotation = torch.linalg.qr(random(5, 5, seed=2)).Q
    assert linear_cka(centred_gram(x), centred_gram(3 * x @ rotation + 1)).item() == pytest.approx(1)


def test_cka_of_features_without_relation_is_zero():
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(centred_gram(x), centred_gram(y)).item() == pytest.approx(0)


def test_cka_of_constant_features_is_undefined():
    assert centred_gram(torch.ones(4, 3)).isnan().all()


def test_norms_by_task(toy_network):
    network = toy_network("sdn", (2, 4))
    with torch.no_grad():
        classifier = network.heads[-1].classifier
        classifier.old_weight.copy_(torch.tensor([[3.0, 4.0, 0, 0], [0, 0, 0, 1.0]]))
        classifier.old_bias.copy_(torch.tensor([-2.0, 1.0]))
        classifier.new_weight.fill_(1.0)
    weights, biases = class_norms(network)
    assert weights.shape == biases.shape == (3, 2)
    assert weights[-1].tolist() == pytest.approx([3.0, 2.0])
    assert biases[-1, 0].item() == pytest.approx(1.5)


def test_norms_of_proxies_without_bias(toy_network):
    network = toy_network(sizes=(2, 1), classifier=lambda features: GrowingCosine(features, proxies=3))
    weights, biases = class_norms(network)
    rows = network.heads[0].classifier.weight.norm(dim=1)
    assert weights[0].tolist() == pytest.approx([rows[:6].mean().item(), rows[6:].mean().item()])
    assert biases.isnan().all()


def test_a_network_that_does_not_move_has_cka_one(toy_network, toy_trainer, toy_benchmark):
    tasks, network = toy_benchmark(), toy_network("sdn", (2, 2)).eval()
    _, grams = measure(tasks[0], network, toy_trainer, None)
    drift, grams = measure(tasks[1], network, toy_trainer, grams)
    assert torch.allclose(drift.since_previous[0], torch.ones(3), atol=1e-5)
    assert drift.since_previous[1].isnan().all()
    assert torch.allclose(drift.since_learned, torch.ones(2, 3), atol=1e-5)
    with torch.no_grad():
        weight = network.backbone.stages[1][0].weight
        weight.copy_(random(*weight.shape))
    moved, _ = measure(tasks[2], network, toy_trainer, grams)
    assert torch.allclose(moved.since_previous[:2, 0], torch.ones(2), atol=1e-5)
    assert (moved.since_previous[:2, 1:] < 0.99).all()


def test_a_run_keeps_its_drift_and_few_gram_matrices(toy_run):
    directory = toy_run(FineTuning(), exits="sdn", watch=Watch(drift=True))
    drift = directory.drift()
    assert drift.since_previous.shape == drift.since_learned.shape == (3, 3, 3)
    assert drift.weights.shape == drift.biases.shape == (3, 3, 3)
    below = torch.ones(3, 3).tril(-1).bool()
    assert (drift.since_previous.isfinite().all(-1) == below).all()
    assert (drift.since_learned[below] < 1).all()
    # The step after a task was learned is both the step since it was learned and the step since the previous task.
    assert torch.equal(drift.since_previous[1, 0], drift.since_learned[1, 0])
    assert not torch.equal(drift.since_previous[2, 0], drift.since_learned[2, 0])
    assert (drift.weights.isfinite().all(1) == torch.ones(3, 3).tril().bool()).all()
    assert sorted(path.name for path in (directory.path / "drift").iterdir() if "grams" in path.name) == [
        "grams_1.safetensors",
        "grams_2.safetensors",
    ]


def test_a_run_without_drift_has_none(toy_run):
    assert toy_run(FineTuning()).drift() is None
