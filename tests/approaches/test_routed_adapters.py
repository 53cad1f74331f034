"""RoutedAdapters: a bank that class means route, and class means under each adapter that answer."""

import numpy as np
import pytest
import torch

from cl_ac.approaches.routed_adapters import RoutedAdapters, RoutedMeans
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.network import ExitNetwork
from cl_ac.tuning.bank import mixed


@pytest.fixture
def prepared(toy_backbone):
    """Makes an approach and a network that it has prepared."""

    def make(**options) -> tuple[RoutedAdapters, ExitNetwork]:
        approach, backbone = RoutedAdapters(**{"rank": 2, **options}), toy_backbone()
        approach.prepare(backbone)
        approach.inference = approach.inference_classifier()
        return approach, ExitNetwork(backbone, backbone.exits("sdn"))

    return make


@pytest.fixture
def learned(prepared, toy_benchmark, toy_trainer, toy_learn):
    """Makes the same after some tasks, with far adapters, and the tasks."""

    def make(tasks: int = 3, **options):
        approach, network = prepared(**options)
        seen = toy_benchmark().tasks[:tasks]
        for task in seen:
            toy_learn(approach, network, [task])
            approach.inference.update(task, network, toy_trainer, approach.memory)
        return approach, network.eval(), seen

    return make


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def vectors(network: ExitNetwork, images: torch.Tensor, mix: dict[int, float]) -> list[np.ndarray]:
    with torch.no_grad(), mixed(network, mix):
        return [each.double().numpy() for each in RoutedMeans().vectors(network, network.hidden(images))]


def test_answers_by_definition(learned):
    approach, network, _ = learned(2, top=2, temperature=0.3)
    images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    found = approach.answer(network, images).exp().double().detach().numpy()
    means = [getattr(approach.inference, f"means_{index}").double().numpy() for index in range(3)]
    base = unit(vectors(network, images, {})[-1]) @ approach.inference.base.double().numpy().T
    likeness = np.exp(np.stack([base[:, :2].max(1), base[:, 2:].max(1)], 1) / 0.3)
    for row, (image, shares) in enumerate(zip(images.split(1), likeness / likeness.sum(1, keepdims=True), strict=True)):
        # The network with the merged weights of this image.
        read = vectors(network, image, dict(enumerate(shares)))
        for index, (query, under) in enumerate(zip(read, means, strict=True)):
            prototypes = unit(np.einsum("t,ctd->cd", shares, unit(under)))
            scores = np.exp(unit(query) @ prototypes.T / 0.05)
            np.testing.assert_allclose(found[index, row], (scores / scores.sum())[0], rtol=1e-3)


def test_means_are_those_under_each_adapter_and_old_ones_are_placed(learned, toy_trainer):
    approach, network, (_, second) = learned(2)
    kept = approach.inference.means_2.double().numpy()  # [classes, adapters, D]
    images = toy_trainer.augmentation.apply(second.train.images[second.train.targets == 3])
    for adapter in range(2):
        mean = unit(unit(vectors(network, images, {adapter: 1.0})[-1]).mean(0))
        np.testing.assert_allclose(kept[3, adapter], mean, rtol=1e-4, atol=1e-6)
    cosines = np.exp(unit(kept[0, 0]) @ unit(kept[2:, 0]).T)
    np.testing.assert_allclose(kept[0, 1], cosines / cosines.sum() @ kept[2:, 1], rtol=1e-4, atol=1e-6)


def test_adapters_of_tasks_that_no_image_is_like_are_not_at_work(learned):
    approach, network, _ = learned(3, top=1)
    images = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    weights = approach.inference.route(network, images)
    assert sorted(weights.unique().tolist()) == [0, 1]
    features = approach.inference.features(network, images)[-1][:, :4].detach()
    for row, adapter in enumerate(weights.argmax(1).tolist()):
        alone = vectors(network, images[row : row + 1], {adapter: 1.0})[-1]
        np.testing.assert_allclose(features[row], alone[0], rtol=1e-4, atol=1e-5)


def test_the_newest_adapters_and_heads_alone_learn(prepared, check_newest_alone_learn):
    check_newest_alone_learn(*prepared(), lambda name: ".1.up" in name or ".1.down" in name)


def test_a_whole_pass_comes_before_every_exit(toy_run, toy_backbone, learned):
    run = toy_run(RoutedAdapters(rank=1), "routed", "sdn", backbone=toy_backbone())
    cost = run.outputs(2).cost
    # Convolutions of 3 × 3 on 6 × 6 places, 1 and 4 channels to 4; what makes their weights is not of each image.
    first, second = 36 * 9 * 1 * 4, 36 * 9 * 4 * 4
    # Products with means of 6 classes under each of 3 adapters, and two sums over adapters that mix them.
    scores = {features: 3 * 6 * (features + 1 + 3) for features in (4, 4 * 4 * 4)}
    assert cost.plain == 2 * (first + second) + scores[4]
    # An early exit also weighs its log-probabilities.
    assert cost.exits[0] == (first + second) + first + scores[64] + 6
    approach, network, _ = learned(1)
    with pytest.raises(ConfigurationError, match="RoutedAdapters looks at the whole network before its exits answer"):
        EarlyExitModel(network, approach, Confidence((0.5, 0.5, 0.0)))


def test_impossible_settings_are_refused(prepared):
    with pytest.raises(ConfigurationError, match=r"approach\.top is 0 and approach\.temperature 0\.05"):
        RoutedAdapters(top=0)
    with pytest.raises(ConfigurationError, match="rank of low-rank adapters is 0"):
        prepared(rank=0)
