"""The bound against closed forms, the likelihood maximised by search, and the share of draws in which it is wrong."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.serving.paired_loss import loss_bound, samples_needed

Z = NormalDist().inv_cdf(0.95)


@pytest.mark.parametrize("samples", [20, 144, 5000])
def test_without_differences_it_is_the_closed_form(samples):
    """With none lost and none won the score is −√(n·d / (1 − d)), which is −z at d = z² / (n + z²)."""
    assert loss_bound(0, 0, samples) == pytest.approx(Z**2 / (samples + Z**2))


def test_worked_by_hand():
    """At d = 0.05 with 3 of 100 lost and 1 won: 200·q² + 5.8·q − 0.0475 = 0, so q = 0.00666; the variance is
    100·(2·0.00666 + 0.0475) = 6.082, and the score (2 − 5) / 2.466 = −1.216, above −1.645, so the bound is larger. At
    d = 0.065: 200·q² + 8.7·q − 0.0608 = 0, q = 0.00612, variance 7.302, score −4.5 / 2.702 = −1.665: just above it."""
    assert 0.05 < loss_bound(3, 1, 100) < 0.065
    assert loss_bound(3, 1, 100) == pytest.approx(0.0643, abs=5e-4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(30, 400), st.integers(0, 12), st.integers(0, 12))
def test_the_score_at_the_bound_is_the_quantile(samples, lost, won):
    bound = loss_bound(lost, won, samples)
    # The share that is won, by search over the likelihood, if the true loss is the bound.
    q = torch.linspace(max(0.0, -bound), (1 - bound) / 2, 400_001, dtype=torch.float64)[1:-1]
    likelihood = lost * (q + bound).log() + won * q.log() + (samples - lost - won) * (1 - 2 * q - bound).log()
    best = q[likelihood.argmax()].item() if lost or won else 0.0
    variance = samples * (2 * best + bound * (1 - bound))
    assert (lost - won - samples * bound) / math.sqrt(variance) == pytest.approx(-Z, abs=0.02)


@pytest.mark.parametrize(("samples", "loss"), [(100, 0.05), (270, 0.01), (300, 0.02)])
@pytest.mark.parametrize("won", [0.0, 0.01, 0.03])
def test_the_true_loss_is_rarely_above_the_bound(samples, loss, won):
    """Enumerated over all numbers of lost and won samples that have any probability to speak of."""
    wrong = 0.0
    for wins in range(30):
        for losses in range(40):
            if loss_bound(losses, wins, samples) < loss:
                wrong += trinomial(samples, losses, wins, loss + won, won)
    assert wrong <= 0.067


def trinomial(samples: int, losses: int, wins: int, lost: float, won: float) -> float:
    ways = math.comb(samples, losses) * math.comb(samples - losses, wins)
    return ways * lost**losses * won**wins * (1 - lost - won) ** (samples - losses - wins)


def test_losses_raise_it_and_wins_lower_it():
    assert loss_bound(4, 0, 200) > loss_bound(3, 0, 200) > loss_bound(3, 2, 200) > loss_bound(0, 9, 200)
    assert loss_bound(0, 9, 200) < 0
    assert loss_bound(7, 0, 7) == 1


@pytest.mark.parametrize("loss", [0.005, 0.01, 0.03])
def test_samples_needed_are_the_fewest(loss):
    needed = samples_needed(loss)
    assert loss_bound(0, 0, needed) <= loss < loss_bound(0, 0, needed - 1)
    assert samples_needed(0.01) == 268
