"""How sparse activations may get before a model loses its quality (arXiv 2509.00454)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import nn

from cl_ac.efficiency.router_free import InducedSparsity
from cl_ac.errors import ConfigurationError


@dataclass(frozen=True)
class SparsityPoint:
    """One level of a sweep: its setting, the sparsity that it induced, and the score."""

    level: float
    sparsity: float
    score: float


@dataclass(frozen=True)
class SparsityCurve:
    """A sweep over levels, least sparse first, and the sparsity up to which the score is as good as the dense one.

    Args:
        dense: score without any rule.
        points: one per level.
        critical: largest induced sparsity whose score reaches `wanted` times the dense one.
        bounded: whether `critical` was crossed; otherwise even the sparsest level reached it.
    """

    dense: float
    points: list[SparsityPoint]
    critical: float
    bounded: bool


# The levels of p at which arXiv 2509.00454 evaluates.
LEVELS: tuple[float, ...] = (1, 0.995, 0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.9, 0.85)
LEVELS += (0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0)


def critical_sparsity(
    model: nn.Module,
    evaluate: Callable[[Any], float],
    masked_at: Callable[[float], AbstractContextManager[InducedSparsity]],
    levels: Sequence[float] = LEVELS,
    wanted: float = 0.99,
) -> SparsityCurve:
    """The largest induced sparsity with at least `wanted` of the dense score, from a sweep.

    The score is taken as linear in the induced sparsity between neighbouring points, the dense model being the point
    of sparsity 0; the critical sparsity is where that line last falls below `wanted` times the dense score.

        critical_sparsity(model, accuracy, lambda p: masked(model, {"intermediate": TopP(p)}))

    Args:
        evaluate: score of a model, above 0 for the dense one; more is better.
        masked_at: masks the model at a level.
        levels: to try.
        wanted: share of the dense score.

    Raises:
        ConfigurationError: if the dense score is not above 0.
    """
    dense = evaluate(model)
    if not dense > 0:
        raise ConfigurationError(f"the dense model scores {dense:g}; a share of the score needs one above 0")
    points = []
    for level in levels:
        with masked_at(level) as induced:
            score = evaluate(model)
        points.append(SparsityPoint(level, induced.total(), score))
    points.sort(key=lambda point: point.sparsity)
    sparsities, scores = [0.0, *(point.sparsity for point in points)], [dense, *(point.score for point in points)]
    return SparsityCurve(dense, points, *crossing(sparsities, scores, wanted * dense))


def crossing(sparsities: Sequence[float], scores: Sequence[float], least: float) -> tuple[float, bool]:
    """Where the line through the points last falls below `least`, and whether it does.

    Args:
        sparsities: ascending.
        scores: at those; the first reaches `least`.
    """
    last = max(index for index, score in enumerate(scores) if score >= least)
    if last == len(scores) - 1:
        return sparsities[last], False
    fallen = (scores[last] - least) / (scores[last] - scores[last + 1])
    return sparsities[last] + fallen * (sparsities[last + 1] - sparsities[last]), True
