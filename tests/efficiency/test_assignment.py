"""Auctions are balanced, near the optimum, and soon over, whatever the points have in common."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.efficiency import assignment
from cl_ac.efficiency.assignment import auction, optimal_assignment


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lost(similarity: Tensor, owners: Tensor, size: int) -> float:
    """How far the summed similarity is below its maximum, in deviations per point."""
    points = torch.arange(len(similarity))
    best = similarity.double()[points, optimal_assignment(similarity, size)].sum()
    return float((best - similarity.double()[points, owners].sum()) / (similarity.std() * len(points)))


@pytest.mark.parametrize(("groups", "size"), [(1, 5), (2, 1), (7, 9), (30, 2)])
def test_an_auction_is_balanced_and_close_to_the_optimum(groups, size):
    similarity = torch.rand(groups * size, groups, generator=stream(6))
    owners, _ = auction(similarity, size)
    assert owners.bincount(minlength=groups).tolist() == [size] * groups
    points = torch.arange(groups * size)
    best = similarity[points, optimal_assignment(similarity, size)].sum()
    # The last stage bids in steps of 0.012 deviations, and no point can lose more than a step.
    allowed = 0.012 * len(points) * (similarity.std() if groups > 1 else 0)
    assert best - allowed - 1e-4 <= similarity[points, owners].sum() <= best + 1e-4


def test_an_auction_ends_among_equals():
    owners, _ = auction(torch.zeros(12, 4), 3)
    assert owners.bincount(minlength=4).tolist() == [3] * 4


ROWS = {
    "full": lambda rows: None,
    "zero": lambda rows: rows[:96].zero_(),
    "equal": lambda rows: rows[:96].copy_(rows[0].clone()),
    "two kinds of equals": lambda rows: (rows[:96].copy_(rows[0].clone()), rows[96:192].copy_(rows[96].clone())),
    "nearly equal": lambda rows: rows[:96].mul_(1e-4).add_(rows[96]),
    "clusters": lambda rows: rows[8:].mul_(0.1).add_(rows[:8].repeat(47, 1)),
}


@pytest.mark.parametrize("kind", ROWS)
def test_no_kind_of_points_keeps_an_auction_going(monkeypatch, kind):
    """Without paths, the auctions of equal and of nearly equal rows take 1,000 to 1,500 rounds of bids."""
    rows = torch.randn(384, 64, generator=stream(1))
    ROWS[kind](rows)
    points, prices = F.normalize(rows, dim=1), None
    centroids = points[-16:]
    work, argsort = [], Tensor.argsort
    monkeypatch.setattr(Tensor, "argsort", lambda *given, **named: work.append(1) or argsort(*given, **named))
    seat = assignment._seat
    monkeypatch.setattr(assignment, "_seat", lambda *given: work.extend([1] * 10) or seat(*given))
    for _ in range(3):
        similarity = points @ centroids.T - centroids.square().sum(1) / 2
        owners, prices = auction(similarity, 24, prices)
        assert owners.bincount(minlength=16).tolist() == [24] * 16
        assert lost(similarity, owners, 24) <= 0.012
        centroids = torch.zeros_like(centroids).index_add_(0, owners, points) / 24
    # Two sorts a round; a path costs as much as five rounds.
    assert len(work) / 2 < 500


def test_a_homeless_point_takes_the_path_of_least_loss():
    """Point 3 likes group 0 best. Point 0 would lose 5 in moving from it to the free group 2, point 1 loses 1 in moving
    to group 1, from where point 2 loses 1 in moving on."""
    similarity = torch.tensor([[9.0, 0.0, 4.0], [6.0, 5.0, 0.0], [0.0, 5.0, 4.0], [9.0, 2.0, 1.0]])
    similarity = torch.cat([similarity, torch.tensor([[0.0, 9.0, 0.0]])])
    owners, prices = torch.tensor([0, 0, 1, -1, 1]), torch.zeros(3)
    assignment._seat(torch.tensor(3), similarity, 2, prices, owners)
    assert owners.tolist() == [0, 1, 2, 0, 1]
    assert prices.tolist() == [2, 1, 0], "so that nobody would rather be elsewhere"
