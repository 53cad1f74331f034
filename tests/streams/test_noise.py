"""Wrong labels: how many, and which."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.data.samples import Samples
from cl_ac.streams.noise import asymmetric, corrupted_share, next_in_group, symmetric, within

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
