"""Long tails: exact numbers of samples by class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.streams.imbalance import LongTailed, long_tailed, quotas, shares
from cl_ac.streams.stream import Labels, Split


def test_the_published_numbers_of_cifar100_lt():
    """500 · 0.01^(c/99), rounded down, as in Liu et al.: 10,847 images."""
    kept = quotas(torch.full((100,), 500), 0.01, "exp")
    assert kept.tolist() == [int(500 * 0.01 ** (rank / 99) + 1e-9) for rank in range(100)]
    assert (kept[0], kept[-1], kept.sum()) == (500, 5, 10_847)


def test_steps():
    assert shares(5, 0.1, "step").tolist() == [1, 1, 1, 0.1, 0.1]
    assert quotas(torch.full((4,), 30), 0.1, "step").tolist() == [30, 30, 3, 3]
    assert quotas(torch.full((4,), 30), 1, "exp").tolist() == [30] * 4


def test_counts_that_differ_allow_less():
    """The second class has too few for the largest to keep all: 12 / 0.5 = 24."""
    assert quotas(torch.tensor([100, 12, 50]), 0.25, "exp").tolist() == [24, 12, 6]


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.floats(0.001, 1),
    st.sampled_from(["exp", "step"]),
    st.integers(0, 50),
)
def test_quotas_are_met_by_samples_of_the_class(counts, factor, kind, seed):
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed))
    kept = long_tailed(targets, order, factor, kind, seed)
    assert kept.tolist() == sorted(set(kept.tolist())), "no sample twice"
    found = targets[kept].bincount(minlength=len(counts))[order]
    assert torch.equal(found, quotas(torch.tensor(counts)[order], factor, kind))
    assert found.diff().le(0).all()
    assert found.min() >= 1
    assert torch.equal(kept, long_tailed(targets, order, factor, kind, seed))


def test_samples_are_kept_by_chance():
    targets = torch.arange(2).repeat(100)
    first, second = (long_tailed(targets, torch.arange(2), 0.1, "exp", seed) for seed in (0, 1))
    assert not torch.equal(first, second)


LABELS = Labels(torch.arange(10).repeat(100), Split(10, 5))


def _counts(stream, seed=0):
    return [LABELS.targets[arrival.train].bincount(minlength=10).tolist() for arrival in stream.arrivals(LABELS, seed)]


def test_classes_come_from_the_largest_to_the_smallest():
    counts = _counts(LongTailed(factor=0.1, kind="step", order="ordered"))
    assert counts[0] == [100, 100, *[0] * 8]
    assert counts[2] == [*[0] * 4, 100, 10, *[0] * 4]
    assert counts[4] == [*[0] * 8, 10, 10]


def test_sizes_are_mixed_by_the_seed():
    found = [[sum(column) for column in zip(*_counts(LongTailed(0.1), seed), strict=True)] for seed in (0, 1)]
    assert found[0] != found[1]
    assert sorted(found[0]) == sorted(found[1]) == sorted(quotas(torch.full((10,), 100), 0.1, "exp").tolist())
    assert LongTailed().disjoint


def test_factors_out_of_range():
    for factor in (0, 1.5):
        with pytest.raises(ConfigurationError, match=rf"stream\.factor is {factor:g}; it must be above 0 and at most"):
            LongTailed(factor=factor)


def test_a_label_without_samples_leaves_the_others_their_shares():
    targets = torch.tensor([0] * 8 + [2] * 8 + [3] * 8)
    kept = long_tailed(targets, torch.tensor([3, 1, 2, 0]), 0.25, "exp", 0)
    assert targets[kept].bincount(minlength=4).tolist() == [2, 0, 4, 8]
