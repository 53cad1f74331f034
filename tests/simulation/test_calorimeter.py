import numpy as np
import pytest
import torch
from scipy.stats import norm

from cl_ac.errors import DataError
from cl_ac.simulation.calorimeter import REGIMES, Calorimeter, regimes_of, spread

SMALL = Calorimeter(showers=40, repeats=4)


def conditions_of(regime, count, energy=3.0, row=8.0, column=5.0):
    return torch.tensor([[energy, row, column, regime.mass, regime.charge]]).repeat(count, 1)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_moments_of_each_regime(regime):
    count = 4000
    images = SMALL.simulate(conditions_of(regime, count), np.random.default_rng(0)).double()
    rows, columns = ((np.arange(size + 1) - centre) / regime.width for size, centre in ((16, 8), (10, 5)))
    share = np.outer(np.diff(norm.cdf(rows)), np.diff(norm.cdf(columns)))
    mean = 3.0 * regime.photons * share.sum()
    # A Poisson distribution whose mean has a gamma distribution.
    variance = mean + (mean * regime.fluctuation) ** 2
    totals = images.sum((1, 2))
    assert totals.mean().item() == pytest.approx(mean, abs=4 * np.sqrt(variance / count))
    assert totals.var().item() == pytest.approx(variance, rel=0.15)
    profile = images.mean(0).numpy() / mean
    assert np.abs(profile - share / share.sum()).max() < 0.01


def test_same_seed_same_showers_and_no_condition_is_in_both_parts():
    first, again, other = (SMALL.data(seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.conditions, two.conditions)
    assert not torch.equal(first[0].conditions, other[0].conditions)
    train, test = ({tuple(row) for row in part.conditions.tolist()} for part in first)
    assert len(train) == 8
    assert len(test) == 2
    assert not train & test
    SMALL.check(torch.cat([first[0].conditions, first[1].conditions]))


def test_regimes_follow_from_mass_and_charge():
    rows = torch.cat([conditions_of(regime, 1) for regime in reversed(REGIMES)])
    assert regimes_of(rows).tolist() == [2, 1, 0]


def test_spread_is_the_deviation_at_a_condition_scaled():
    images = torch.tensor([1.0, 3.0, 5.0, 5.0, 0.0, 1.0]).view(6, 1, 1)  # deviations √2, 0 and √½
    assert spread(images, 2).tolist() == pytest.approx([1, 1, 0, 0, 0.5, 0.5])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (0, 11.0, "condition 2 has energy 11; it must be between 1 and 10"),
        (1, 0.0, "condition 2 has row 0; it must be between 3.2 and 12.8"),
        (2, float("nan"), "condition 2 has column nan; it must be between 2 and 8"),
        (4, 2.0, "condition 2 has mass 0 and charge 2; known: 0 and 0, 1 and 0, 1 and 1"),
    ],
)
def test_conditions_out_of_range_are_refused(place, value, told):
    conditions = conditions_of(REGIMES[0], 3)
    conditions[1, place] = value
    with pytest.raises(DataError, match=told):
        SMALL.simulate(conditions, np.random.default_rng(0))
