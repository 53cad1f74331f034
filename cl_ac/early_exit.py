"""Early exits: which exit answers, what it costs, and the curve between accuracy and cost.

Pure functions of `Outputs`. Shapes: E exits, N samples, K thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_ac.evaluation import Outputs, most_confident

PAPER_THRESHOLDS = torch.arange(1001, dtype=torch.float64) / 1000


def confidence_exit(confidences: Tensor, threshold: float) -> Tensor:
    """The first exit whose confidence reaches `threshold`, or E where none does.

    Args:
        confidences: [E, N].
    Returns:
        int64 [N].
    """
    return (confidences.cummax(0).values < threshold).sum(0)


@dataclass(frozen=True)
class Curve:
    """Accuracy against cost as the threshold moves.

    Args:
        thresholds: [K].
        accuracy: [K], in [0, 1].
        cost: [K], mean cost relative to the network without ACs.
        shares: [K, E + 1], share of samples that leave at each exit; the last column found no sure exit.
    """

    thresholds: Tensor
    accuracy: Tensor
    cost: Tensor
    shares: Tensor


def cost_accuracy(outputs: Outputs, thresholds: Tensor = PAPER_THRESHOLDS) -> Curve:
    """The curve of the confidence rule; where no exit is sure, the most confident one answers at full cost.

    A sample leaves at exit i for exactly the thresholds above the best confidence before i and up to that at i, so
    one search per sample and exit gives every threshold at once.

    Args:
        thresholds: ascending [K].
    """
    samples = len(outputs.targets)
    best = outputs.confidences.double().cummax(0).values
    bounds = torch.searchsorted(thresholds.double(), best.contiguous(), right=True)
    starts = torch.cat([torch.zeros(1, samples, dtype=torch.int64), bounds])
    ends = torch.cat([bounds, torch.full((1, samples), len(thresholds))])
    fallback = outputs.correct.gather(0, most_confident(outputs)[None])
    correct = torch.cat([outputs.correct, fallback]).double()
    shares = torch.stack([_active(s, e, len(thresholds)) for s, e in zip(starts, ends, strict=True)], 1) / samples
    right = torch.stack(
        [_active(s, e, len(thresholds), c) for s, e, c in zip(starts, ends, correct, strict=True)], 1
    ).sum(1)
    relative = torch.tensor([*outputs.cost.relative, outputs.cost.relative[-1]], dtype=torch.float64)
    return Curve(thresholds, right / samples, shares @ relative, shares)


def _active(starts: Tensor, ends: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """How many (or how much) of the intervals [start, end) hold each of the positions 0 … count − 1."""
    ones = torch.ones(len(starts), dtype=torch.float64) if weights is None else weights
    change = torch.zeros(count + 1, dtype=torch.float64)
    change.index_add_(0, starts, ones)
    change.index_add_(0, ends.clamp(min=0), -ones)
    return change.cumsum(0)[:count]


def cost_at_accuracy(curve: Curve, accuracy: float) -> float | None:
    """The smallest relative cost at which the curve reaches `accuracy`; None if it never does."""
    reached = curve.cost[curve.accuracy >= accuracy - 1e-9]
    return reached.min().item() if len(reached) else None


def accuracy_at_budgets(curve: Curve, budgets: Sequence[float] = (0.25, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0)) -> list[float]:
    """The best accuracy within each relative cost; NaN where even the cheapest point costs more."""
    return [
        affordable.max().item() if len(affordable := curve.accuracy[curve.cost <= budget]) else torch.nan
        for budget in budgets
    ]
