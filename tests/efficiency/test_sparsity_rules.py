"""What each rule keeps, against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_ac.efficiency.sparsity_rules import MaxP, Threshold, TopK, TopP
from cl_ac.errors import ConfigurationError

VALUES = st.lists(st.integers(-8, 8).map(lambda value: value / 4), min_size=1, max_size=30).map(torch.tensor)
SHARES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(VALUES, SHARES, st.sampled_from([1.0, 2.0]))
def test_top_p_keeps_the_mass_with_no_entry_too_many(values: Tensor, p: float, power: float):
    kept = TopP(p, power)(values)
    mass, magnitude = values.double().abs().pow(power), values.abs()
    assert mass[kept].sum() >= p * mass.sum() - 1e-9
    if mass.sum() > 0:
        assert kept[magnitude == magnitude.max()].all(), "the maximum stays, even for p = 0"
        smallest = magnitude[kept].min()
        assert torch.equal(kept, magnitude >= smallest), "ties stay"
        if p > 0:
            assert mass[magnitude > smallest].sum() < p * mass.sum(), "without the smallest it would be too little"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VALUES, SHARES)
def test_top_k_keeps_the_largest_and_their_ties(values: Tensor, share: float):
    kept, count = TopK(share)(values), int(len(values) * share)
    magnitude = values.abs()
    expected = torch.zeros_like(kept)
    if count:
        expected = (magnitude >= magnitude.sort(descending=True).values[count - 1]) & (magnitude > 0)
    assert torch.equal(kept, expected)
    assert kept.sum() >= min(count, int((magnitude > 0).sum()))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(VALUES, SHARES)
def test_max_p_compares_with_the_largest(values: Tensor, share: float):
    magnitude = values.abs()
    assert torch.equal(MaxP(share)(values), (magnitude >= share * magnitude.max()) & (magnitude > 0))


def test_vectors_are_independent():
    values = torch.randn(3, 5, 40)
    for rule in (TopP(0.7), TopK(0.3), MaxP(0.4), Threshold(0.5)):
        alone = torch.stack([torch.stack([rule(vector) for vector in row]) for row in values])
        assert torch.equal(rule(values), alone)


def test_threshold_keeps_what_exceeds_it():
    assert Threshold(1.0)(torch.tensor([-2.0, 1.0, 0.5, 1.5])).tolist() == [True, False, False, True]


def test_nan_stays_visible():
    values = torch.tensor([1.0, float("nan"), 3.0])
    for rule in (TopP(0.5), TopK(0.4), MaxP(1.0)):
        assert rule(values)[1]


@pytest.mark.parametrize("rule", [TopP, TopK, MaxP])
def test_shares_outside_0_and_1_are_refused(rule):
    with pytest.raises(ConfigurationError, match=r"is 1\.5; it must be a share from 0 to 1"):
        rule(1.5)


def test_float64_is_masked_like_float32():
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    for rule in (TopP(0.8), TopK(0.3), MaxP(0.2), Threshold(0.5)):
        assert torch.equal(rule(values.double()), rule(values))
