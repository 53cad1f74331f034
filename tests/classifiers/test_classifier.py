"""Inference classifiers against numpy and scikit-learn, exact merging, aggregation, and their place in a run."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.freezing import Freezing
from cl_ac.classifiers.analytic import DSAL
from cl_ac.classifiers.classifier import fit_weights
from cl_ac.classifiers.fecam import FeCAM
from cl_ac.classifiers.fetril import FeTrIL
from cl_ac.classifiers.gaussian import Gaussian, Statistics, discriminant
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import Exits
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.journal import Journal

KINDS = [NearestMean, Gaussian]


def blobs(seed: int, classes: int = 4, per_class: int = 30, features: int = 5):
    """Correlated Gaussian classes: features [N, D] and targets [N]."""
    draw = numpy.random.default_rng(seed)
    mixing, centres = draw.normal(size=(features, features)), 1.5 * draw.normal(size=(classes, features))
    targets = numpy.repeat(numpy.arange(classes), per_class)
    return draw.normal(size=(len(targets), features)) @ mixing + centres[targets] + 3, targets


def statistics(features, targets, classes=4, diagonal=False) -> Statistics:
    return Statistics.of(torch.from_numpy(features), torch.from_numpy(targets), classes, diagonal)


@pytest.fixture
def benchmark(toy_benchmark):
    return toy_benchmark()


@pytest.fixture
def network(toy_network):
    return toy_network("sdn", (2, 2)).eval()


def features_of(classifier, network, trainer, samples) -> list[numpy.ndarray]:
    """Features [N, D_i] of each exit in float64."""
    batches = list(classifier.passes(network, samples, trainer))
    return [torch.cat(parts).double().numpy() for parts in zip(*(features for features, _ in batches), strict=True)]


def normalised(rows: numpy.ndarray) -> numpy.ndarray:
    return rows / numpy.linalg.norm(rows, axis=-1, keepdims=True)


def test_discriminant_is_the_bayes_form_of_the_ridge():
    x, y = blobs(0)
    weight, bias = discriminant(statistics(x, y), bayes=True)
    means = numpy.stack([x[y == c].mean(0) for c in range(4)])
    centred = x - means[y]
    covariance = centred.T @ centred / (len(x) - 1)
    # other-systems.md §3: P = d [(N − 1) S + tr(S) I]⁻¹
    precision = 5 * numpy.linalg.inv((len(x) - 1) * covariance + numpy.trace(covariance) * numpy.eye(5))
    assert numpy.allclose(weight, means @ precision)
    assert numpy.allclose(bias, [-0.5 * m @ precision @ m for m in means])
    unit_weight, unit_bias = discriminant(statistics(x, y))
    ridge = numpy.trace(covariance) / (len(x) - 1)
    precision = numpy.linalg.inv(covariance + ridge * numpy.eye(5))
    assert numpy.allclose(unit_weight, means @ precision)
    assert numpy.allclose(unit_bias, [-0.5 * m @ precision @ m for m in means])


def test_answers_are_those_of_the_mahalanobis_distance_and_of_linear_discriminant_analysis():
    x, y = blobs(1, per_class=500)
    weight, bias = discriminant(statistics(x, y))
    answers = (x @ weight.numpy().T + bias.numpy()).argmax(1)
    means = numpy.stack([x[y == c].mean(0) for c in range(4)])
    centred = x - means[y]
    covariance = centred.T @ centred / (len(x) - 1)
    precision = numpy.linalg.inv(covariance + numpy.trace(covariance) / (len(x) - 1) * numpy.eye(5))
    apart = x[:, None] - means
    assert (answers == numpy.einsum("ncd,de,nce->nc", apart, precision, apart).argmin(1)).all()
    # The ridge vanishes as data grow.
    analysis = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4).fit(x, y)
    assert (answers == analysis.predict(x)).mean() > 0.995


@pytest.mark.parametrize("bayes", [False, True])
def test_diagonal_and_spherical_covariance(bayes):
    x, y = blobs(2)
    known = statistics(x, y, diagonal=True)
    means = numpy.stack([x[y == c].mean(0) for c in range(4)])
    variance = ((x - means[y]) ** 2).sum(0) / (len(x) - 1)
    factor = 5 / (len(x) - 1) if bayes else 1
    weight, _ = discriminant(known, bayes=bayes)
    assert numpy.allclose(weight, factor * means / (variance + variance.sum() / (len(x) - 1)))
    weight, bias = discriminant(known, spherical=True, bayes=bayes)
    centroid = NearestCentroid().fit(x, y)
    assert ((x @ weight.numpy().T + bias.numpy()).argmax(1) == centroid.predict(x)).all()


@pytest.mark.parametrize("kind", [*KINDS, FeTrIL, FeCAM, DSAL])
def test_scores_keep_their_precision_where_networks_run_at_less(toy_trainer, network, benchmark, kind):
    classifier = kind(width=8) if kind is DSAL else kind()
    classifier.update(benchmark[0], network, toy_trainer, Memory())
    with torch.no_grad():
        features = classifier.features(network, torch.randn(4, 1, 6, 6))
        expected = classifier.logits(features)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(classifier.logits(features), expected)


def test_shrinkage_takes_the_place_of_the_ridge():
    x, y = blobs(5)
    weight, bias = discriminant(statistics(x, y), shrinkage=0.1)
    means = numpy.stack([x[y == c].mean(0) for c in range(4)])
    covariance = (x - means[y]).T @ (x - means[y]) / (len(x) - 1)
    precision = numpy.linalg.inv(0.9 * covariance + 0.1 * numpy.eye(5))
    assert numpy.allclose(weight, means @ precision)
    assert numpy.allclose(bias, [-0.5 * m @ precision @ m for m in means])
    with pytest.raises(ConfigurationError, match="shrinkage is 0"):
        Gaussian(shrinkage=0.0)


def test_a_shrunk_gaussian_learns_tasks_with_its_shrinkage(toy_trainer, network, benchmark):
    weights = []
    for shrinkage in (None, 0.5):
        classifier = Gaussian(shrinkage=shrinkage)
        classifier.update(benchmark[0], network, toy_trainer, Memory())
        weights.append(classifier.weight_2)
    expected, _ = discriminant(classifier.statistics(2), shrinkage=0.5)
    assert torch.equal(weights[1], expected.float())
    assert not torch.allclose(weights[0], weights[1])


def test_more_features_than_samples_and_constant_features_stay_finite():
    x, y = blobs(3, per_class=2, features=40)
    for features in (x, numpy.zeros_like(x), numpy.ones_like(x)):
        weight, bias = discriminant(statistics(features, y))
        assert torch.isfinite(weight).all()
        assert torch.isfinite(bias).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), min_size=0, max_size=5), st.booleans())
def test_merging_parts_in_any_order_equals_the_whole(seed, cuts, diagonal):
    x, y = blobs(seed % 1000, per_class=15)
    order = numpy.random.default_rng(seed).permutation(len(x))
    parts = [part for part in numpy.split(order, sorted(cuts)) if len(part)]
    whole = statistics(x, y, diagonal=diagonal)
    for sequence in (parts, parts[::-1]):
        merged = statistics(x[sequence[0]], y[sequence[0]], diagonal=diagonal)
        for part in sequence[1:]:
            merged = merged.merge(statistics(x[part], y[part], diagonal=diagonal))
        assert torch.equal(merged.counts, whole.counts)
        assert torch.allclose(merged.means, whole.means, rtol=1e-10, atol=1e-10)
        assert torch.allclose(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-8)


def test_merging_adds_classes():
    x, y = blobs(4)
    first, second = y < 2, y >= 2
    merged = statistics(x[first], y[first], 2).merge(statistics(x[second], y[second], 4))
    whole = statistics(x, y)
    assert torch.allclose(merged.means, whole.means)
    assert torch.allclose(merged.scatter, whole.scatter)


def test_gaussian_streams_tasks_exactly_without_exemplars(toy_trainer, network, benchmark):
    classifier = Gaussian()
    for task in benchmark[:2]:
        classifier.update(task, network, toy_trainer, Memory())
    train = [task.train for task in benchmark[:2]]
    parts = [features_of(classifier, network, toy_trainer, samples) for samples in train]
    y = torch.cat([samples.targets for samples in train]).numpy()
    test = features_of(classifier, network, toy_trainer, benchmark[1].test)
    scores = classifier.scores([torch.from_numpy(part).float() for part in test]).double().numpy()
    for index in range(3):
        x = numpy.concatenate([parts[0][index], parts[1][index]])
        weight, bias = discriminant(statistics(x, y))
        expected = test[index] @ weight.numpy().T + bias.numpy()
        assert numpy.allclose(scores[index], expected, rtol=1e-3, atol=1e-3 * abs(expected).max())


def test_nearest_mean_takes_exemplars_for_old_and_all_data_for_new_classes(toy_trainer, network, benchmark):
    classifier, memory = NearestMean(), Memory(8)
    memory.update(benchmark[0].train, torch.Generator(), network, toy_trainer)
    classifier.update(benchmark[0], network, toy_trainer, memory)
    with torch.no_grad():
        next(network.backbone.parameters()).mul_(-1)
    classifier.update(benchmark[1], network, toy_trainer, memory)
    old = features_of(classifier, network, toy_trainer, memory.samples)
    new = features_of(classifier, network, toy_trainer, benchmark[1].train)
    test = features_of(classifier, network, toy_trainer, benchmark[1].test)
    logits = classifier.logits([torch.from_numpy(part).float() for part in test]).double().numpy()
    for index in range(3):
        x = normalised(numpy.concatenate([old[index], new[index]]))
        y = numpy.concatenate([memory.targets.numpy(), benchmark[1].train.targets.numpy()])
        means = normalised(numpy.stack([x[y == c].mean(0) for c in range(4)]))
        cosines = normalised(test[index]) @ means.T / classifier.temperature
        expected = cosines - numpy.log(numpy.exp(cosines).sum(1, keepdims=True))
        assert numpy.allclose(logits[index], expected, atol=1e-3)
        distances = numpy.linalg.norm(normalised(test[index])[:, None] - means, axis=-1)
        assert (logits[index].argmax(1) == distances.argmin(1)).all()


def test_means_of_classes_without_exemplars_stay(toy_trainer, network, benchmark):
    classifier = NearestMean()
    classifier.update(benchmark[0], network, toy_trainer, Memory())
    before = [getattr(classifier, f"means_{index}").clone() for index in range(3)]
    with torch.no_grad():
        next(network.backbone.parameters()).mul_(-1)
    classifier.update(benchmark[1], network, toy_trainer, Memory())
    for index in range(3):
        after = getattr(classifier, f"means_{index}")
        assert torch.equal(after[:2], before[index])
        assert after.shape[0] == 4
        assert after[2:].any()


def test_a_kept_mean_knows_nothing_of_added_features():
    classifier, draw = NearestMean(), torch.Generator().manual_seed(0)
    classifier.set_means([([torch.randn(4, 3, generator=draw)], torch.tensor([0, 0, 1, 1]))], 2)
    before = classifier.means_0
    classifier.set_means([([torch.randn(2, 5, generator=draw)], torch.tensor([1, 2]))], 3)
    assert classifier.means_0.shape == (3, 5)
    assert torch.equal(classifier.means_0[0], torch.nn.functional.pad(before[0], (0, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_the_heads(toy_network, kind):
    network, images = toy_network("sdn", (2,)).eval(), torch.randn(2, 1, 6, 6)
    before = kind().features(network, images)
    network.grow(2, 1)
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter += 1
    assert all(torch.equal(a, b) for a, b in zip(before, kind().features(network, images), strict=True))
    assert [part.shape for part in before] == [(2, 4 * 16), (2, 4 * 16), (2, 4)]
    assert [part.shape[1] for part in kind(side=2, pooling="max").features(network, images)] == [16, 16, 4]


def test_uniform_aggregation_is_the_mean_of_log_probabilities_so_far(toy_trainer, network, benchmark):
    images = torch.randn(5, 1, 6, 6)
    own, uniform = Gaussian(), Gaussian(aggregation="uniform")
    for classifier in (own, uniform):
        for task in benchmark[:2]:
            classifier.update(task, network, toy_trainer, Memory())
    alone = own.logits(own.features(network, images))
    together = uniform.logits(uniform.features(network, images))
    for index in range(3):
        assert torch.allclose(together[index], alone[: index + 1].mean(0), atol=1e-5)


def test_learned_weights_are_sparse_non_negative_and_causal():
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (400,), generator=draw)
    signal = torch.nn.functional.one_hot(targets, 3).float()
    noise = torch.randn(3, 400, 3, generator=draw)
    # The second exit knows the answer, the third is the first in disguise.
    scores = torch.stack([noise[0], 3 * signal + noise[1], noise[0] + 0.01 * noise[2]])
    weights = fit_weights(scores, targets, sparsity=0.05)
    assert (weights >= 0).all()
    assert (weights == weights.tril()).all()
    assert weights[1, 1] > 0.2
    assert weights[2, 1] > 0.2
    assert weights[2, 0] == 0
    assert weights[2, 2] == 0
    assert (fit_weights(scores, targets, sparsity=10.0) == 0).all()


def test_learned_weights_meet_the_optimality_conditions():
    draw = torch.Generator().manual_seed(1)
    targets = torch.randint(0, 4, (300,), generator=draw)
    scores = torch.nn.functional.one_hot(targets, 4) + torch.randn(3, 300, 4, generator=draw)
    row = fit_weights(scores, targets, sparsity=0.01)[2].double()
    log_p = scores.double().log_softmax(-1)
    probabilities = torch.einsum("l,lnc->nc", row, log_p).softmax(-1)
    chosen = log_p.gather(2, targets.expand(3, -1)[..., None])[..., 0]
    gradient = ((probabilities * log_p).sum(-1) - chosen).mean(1) + 0.01
    assert ((gradient.abs() < 1e-3) | ((row == 0) & (gradient > 0))).all()


def test_learned_weights_never_see_test_samples(toy_trainer, network, toy_benchmark):
    published = toy_benchmark(validation="test")
    classifier = Gaussian(aggregation="learned")
    classifier.update(published[0], network, toy_trainer, Memory())
    assert torch.allclose(classifier.weights, torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize("make", [NearestMean, Gaussian, lambda: Gaussian(aggregation="learned")])
@pytest.mark.parametrize(("exits", "count"), [(Exits([], []), 1), ("sdn", 3)])
def test_any_approach_can_answer_with_any_classifier(toy_run, make, exits, count):
    approach = FineTuning()
    directory = toy_run(approach, exits=exits, memory=12, classifier=make())
    logits = directory.outputs(2).logits
    assert logits.shape[0] == count
    assert logits.isfinite().all()
    assert (logits <= 1e-5).all()
    assert directory.outputs(2).confidences.max() <= 1


def test_training_does_not_depend_on_the_classifier(toy_run):
    states = [
        Checkpoint.load(toy_run(FineTuning(), name, exits="sdn", classifier=classifier).checkpoint_path).network
        for name, classifier in (("a", None), ("b", Gaussian()))
    ]
    assert all(torch.equal(v, states[1][name]) for name, v in states[0].items() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize(
    "make", [NearestMean, Gaussian, lambda: Gaussian(aggregation="learned", covariance="diagonal")]
)
def test_a_resumed_run_answers_the_same(toy_run, monkeypatch, make):
    original = Journal.epoch

    def stop(self, task, report):
        original(self, task, report)
        if task.index == 2 and report.epoch == 0:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "epoch", stop)
        with pytest.raises(InterruptedError):
            toy_run(Freezing(), "stopped", exits="sdn", classifier=make())
    resumed = toy_run(Freezing(), "stopped", exits="sdn", classifier=make(), resume=True)
    whole = toy_run(Freezing(), "whole", exits="sdn", classifier=make())
    assert torch.equal(resumed.outputs(2).logits, whole.outputs(2).logits)


def test_bayes_scale_changes_confidences_but_no_answers(toy_trainer, network, benchmark):
    unit, bayes, images = Gaussian(), Gaussian(scale="bayes"), torch.randn(8, 1, 6, 6)
    for classifier in (unit, bayes):
        classifier.update(benchmark[0], network, toy_trainer, Memory())
    first, second = (classifier.logits(classifier.features(network, images)) for classifier in (unit, bayes))
    assert torch.equal(first.argmax(-1), second.argmax(-1))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearestMean(temperature=0.0), "temperature is 0.0"),
        (lambda: Gaussian(sparsity=-1.0), "sparsity is -1.0"),
        (lambda: Gaussian(side=0), "side is 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_temperature_scales_log_odds(toy_trainer, network, benchmark):
    images = torch.randn(3, 1, 6, 6)
    odds = []
    for temperature in (0.1, 0.05):
        classifier = NearestMean(temperature)
        classifier.update(benchmark[0], network, toy_trainer, Memory())
        logits = classifier.logits(classifier.features(network, images))
        odds.append(logits[..., 0] - logits[..., 1])
    assert torch.allclose(2 * odds[0], odds[1], rtol=1e-3, atol=1e-4)
    assert math.isfinite(odds[0].sum().item())
