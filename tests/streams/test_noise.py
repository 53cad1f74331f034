"""Wrong labels: how many, and which."""

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples
from cl_ac.datasets.torchvision_sets import CIFAR10, CIFAR100
from cl_ac.errors import ConfigurationError
from cl_ac.recording.summary import summarise
from cl_ac.streams.metrics import corrupted_share
from cl_ac.streams.noise import NoisyLabels, asymmetric, next_in_group, symmetric, within
from cl_ac.streams.stream import Labels, Split

labels = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(torch.tensor)


@settings(max_examples=60)
@given(labels, st.floats(0, 1), st.integers(0, 50))
def test_symmetric_noise_is_exact_and_stays_in_its_group(targets, rate, seed):
    groups = [[0, 1, 2], [3, 4], [5]]
    noisy = symmetric(targets, rate, groups, seed)
    for group in groups:
        for label in group:
            members = targets == label
            wrong = int((noisy[members] != label).sum())
            assert wrong == (round(rate * int(members.sum())) if len(group) > 1 else 0)
            assert set(noisy[members].tolist()) <= set(group)
    assert torch.equal(noisy, symmetric(targets, rate, groups, seed))


def test_all_other_classes_are_as_likely():
    noisy = symmetric(torch.zeros(9000, dtype=torch.int64), 1, [[0, 1, 2, 3]], 0)
    assert torch.allclose(noisy.bincount() / 9000, torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02)


@settings(max_examples=40)
@given(labels, st.floats(0, 1), st.integers(0, 50))
def test_asymmetric_noise_goes_one_way(targets, rate, seed):
    mistaken = {0: 3, 1: 2, 2: 1}
    noisy = asymmetric(targets, rate, mistaken, seed)
    for label in range(6):
        members = targets == label
        expected = round(rate * int(members.sum())) if label in mistaken else 0
        assert set(noisy[members].tolist()) <= {label, mistaken.get(label, label)}
        assert int((noisy[members] != label).sum()) == expected


def test_the_next_of_a_group():
    assert next_in_group([[4, 30, 55], [7], [1, 0]]) == {4: 30, 30: 55, 55: 4, 1: 0, 0: 1}


def test_mistakes_within_a_task():
    circle = {0: 1, 1: 2, 2: 3, 3: 0}
    assert within(circle, [0, 1, 2, 3]) == circle
    assert within(circle, [0, 2]) == {0: 2, 2: 0}
    assert within(circle, [3]) == {}
    assert within({9: 1, 2: 0}, [9, 2]) == {}, "taken for classes that are not there"


def test_the_share_of_wrong_exemplars():
    images = torch.zeros(4, 1, 1, 1, dtype=torch.uint8)
    samples = Samples(images, torch.tensor([0, 1, 1, 2]), {"true_targets": torch.tensor([0, 1, 2, 0])})
    assert corrupted_share(samples) == 0.5
    assert corrupted_share(samples.without_extras()) is None
    assert corrupted_share(samples.select(torch.tensor([], dtype=torch.int64))) is None


TARGETS = torch.arange(6).repeat(50)


def _noisy(stream, mistaken=None, tasks=3):
    """True and given labels of each task."""
    labels = Labels(TARGETS, Split(6, tasks), mistaken=mistaken)
    return [(TARGETS[arrival.train], arrival.labels) for arrival in stream.arrivals(labels, 0)]


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
def test_noise_stays_in_its_task(kind):
    for task, (true, noisy) in enumerate(_noisy(NoisyLabels(0.4, kind))):
        assert set(noisy.tolist()) == {2 * task, 2 * task + 1}
        assert int((true != noisy).sum()) == 40


def test_asymmetric_noise_is_what_the_data_say():
    (true, noisy), (other, unchanged) = _noisy(NoisyLabels(0.4, "asymmetric"), {0: 2, 2: 5, 5: 0}, tasks=2)
    assert set(zip(true.tolist(), noisy.tolist(), strict=True)) == {(0, 0), (0, 2), (1, 1), (2, 2), (2, 0)}
    assert torch.equal(other, unchanged)


@pytest.mark.parametrize(
    ("options", "mistaken", "words"),
    [
        ({"kind": "asymmetric"}, None, "the benchmark does not say which class is mistaken for which"),
        ({"kind": "asymmetric"}, {0: 3}, "no class is mistaken for another of its task"),
        ({"kind": "asymmetric", "rate": 1.0}, {0: 1}, r"stream\.rate is 1, which leaves a class without labels"),
    ],
)
def test_noise_that_cannot_be(options, mistaken, words):
    with pytest.raises(ConfigurationError, match=words):
        _noisy(NoisyLabels(**options), mistaken)
    with pytest.raises(ConfigurationError, match=r"stream\.rate is 1\.2; it must be from 0 to 1"):
        NoisyLabels(1.2)


class Pairs(Benchmark):
    """Four classes of ten images, of which 3 is taken for 0; the value of an image is its class."""

    num_classes, image_shape = 4, (1, 2, 2)
    mistaken: ClassVar = {3: 0}

    def load(self):
        targets = torch.arange(4).repeat(10)
        images = targets.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
        return Samples(images, targets), Samples(images[:4], targets[:4])


def test_true_classes_travel_with_images_and_test_labels_are_right():
    benchmark = Pairs(tasks=2, order=[1, 2, 0, 3], validation=0.2)
    benchmark.stream = NoisyLabels(0.5, "asymmetric")
    first, second = benchmark
    assert torch.equal(first.train.targets, first.train.extras["true_targets"])
    assert corrupted_share(second.train) == 0.25
    shown = torch.tensor([2, 0, 1, 3])[second.train.images[:, 0, 0, 0].long()]
    assert torch.equal(second.train.extras["true_targets"], shown)
    assert set(second.train.targets[shown == 3].tolist()) == {2, 3}
    for samples in (second.validation, second.test):
        assert torch.equal(samples.targets, torch.tensor([2, 0, 1, 3])[samples.images[:, 0, 0, 0].long()])


def test_superclasses_of_cifar100_are_the_true_ones():
    """Beaver, dolphin, otter, seal and whale; apple, mushroom, orange, pear and sweet pepper; tractor to lawn mower."""
    assert CIFAR100.superclasses[0] == (4, 30, 55, 72, 95)
    assert CIFAR100.superclasses[4] == (0, 51, 53, 57, 83)
    assert CIFAR100.superclasses[19] == (41, 69, 81, 85, 89)
    assert sorted(label for group in CIFAR100.superclasses for label in group) == list(range(100))
    assert (CIFAR100.mistaken[4], CIFAR100.mistaken[95]) == (30, 4)
    assert CIFAR10.mistaken == {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


@pytest.mark.parametrize("approach", ["ER", "DERpp", "ICaRL"])
def test_the_share_of_wrong_exemplars_is_kept(digits_run, approach):
    options = ("--approach", approach, "--memory.size", "40", "--backbone", "SmallConvNet", "--training.epochs", "1")
    noisy = digits_run(*options, "--stream", "NoisyLabels", "--stream.rate", "0.5")
    for record in noisy.records:
        assert 0.2 < record.corrupted_exemplars < 0.8
    assert summarise(noisy).corrupted_exemplars == noisy.records[-1].corrupted_exemplars
    assert digits_run(*options).records[-1].corrupted_exemplars is None
