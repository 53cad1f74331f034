"""The curve between accuracy and cost of an exit rule, and the thresholds that are chosen on it.

Pure functions of `Outputs`. Shapes: E exits, N samples, T tasks, K thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cl_ac.errors import UserError
from cl_ac.evaluation import Outputs, average
from cl_ac.exits.rules import Confidence, Decision, ExitRule, decide, scores

BUDGETS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0)
# The grid of the AC paper. It starves exits whose scores lie close together, so quantiles are the default.
PAPER_THRESHOLDS = torch.arange(1001, dtype=torch.float64) / 1000


@dataclass(frozen=True)
class Curve:
    """Accuracy against cost as the threshold moves.

    Args:
        thresholds: [K], or [K, E] with one for each exit.
        accuracy: [K], in [0, 1].
        cost: [K], mean cost relative to the network without ACs.
        shares: [K, E + 1], share of samples that leave at each exit; the last column found no sure exit.
    """

    thresholds: Tensor
    accuracy: Tensor
    cost: Tensor
    shares: Tensor


def quantile_thresholds(values: Tensor, count: int = 1001, per_exit: bool = False) -> Tensor:
    """Ascending thresholds among scores [E, N], with 0 before and one that nothing reaches after them.

    Args:
        count: how many quantiles at most; those that coincide are left out.
        per_exit: take the quantiles of each exit's scores, [K, E], instead of those of all scores together, [K].
    """
    pooled = (values.T if per_exit else values.flatten()).double().sort(0).values
    places = torch.linspace(0, len(pooled) - 1, min(count, len(pooled)), dtype=torch.float64).round().long()
    inner = pooled[places].unique_consecutive(dim=0)
    lowest = torch.zeros_like(inner[:1])
    beyond = torch.nextafter(pooled[-1:].clamp(min=1), torch.full_like(inner[:1], torch.inf))
    return torch.cat([lowest, inner, beyond])


def cost_accuracy(
    outputs: Outputs, rule: ExitRule = Confidence(), thresholds: Tensor | None = None, costs: Tensor | None = None
) -> Curve:
    """The curve of `rule` as its threshold moves.

    Once an exit is sure at a threshold it is so at all lower ones. So a sample leaves at exit i for exactly those
    thresholds that exit i reaches and no earlier exit does, and one search per exit gives every threshold at once.

    Args:
        thresholds: [K] or [K, E], ascending; by default pooled quantiles of the scores.
        costs: of each sample up to each exit, relative to the network without ACs [E, N], where samples differ.
    Raises:
        UserError: if a logit is not a number.
    """
    values = scores(rule, outputs)
    thresholds = quantile_thresholds(values) if thresholds is None else thresholds.double()
    count, samples, exits = len(thresholds), len(outputs.targets), len(values)
    columns = thresholds.T if thresholds.ndim == 2 else thresholds.expand(exits, -1)
    reached = torch.searchsorted(columns.contiguous(), values.contiguous(), right=True)  # [E, N]
    # The last row stands for samples that no exit is sure of: they fill up to all thresholds.
    ends = torch.cat([reached.cummax(0).values, torch.full((1, samples), count)])
    starts = torch.cat([torch.zeros(1, samples, dtype=torch.int64), ends[:-1]])
    nowhere = decide(replace(rule, threshold=torch.inf), outputs).predictions
    correct = torch.cat([outputs.correct, (nowhere == outputs.targets)[None]]).double()
    shares = torch.stack([_active(s, e, count) for s, e in zip(starts, ends, strict=True)], 1) / samples
    right = torch.stack([_active(s, e, count, c) for s, e, c in zip(starts, ends, correct, strict=True)])
    if costs is None:
        return Curve(thresholds, right.sum(0) / samples, shares @ _cost(outputs), shares)
    paid = torch.cat([costs, costs[-1:]]).double()
    spent = torch.stack([_active(s, e, count, c) for s, e, c in zip(starts, ends, paid, strict=True)])
    return Curve(thresholds, right.sum(0) / samples, spent.sum(0) / samples, shares)


def _active(starts: Tensor, ends: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """How many (or how much) of the intervals [start, end) hold each of the positions 0 … count − 1."""
    ones = torch.ones(len(starts), dtype=torch.float64) if weights is None else weights
    change = torch.zeros(count + 1, dtype=torch.float64)
    change.index_add_(0, starts, ones)
    change.index_add_(0, ends, -ones)
    return change.cumsum(0)[:count]


def _cost(outputs: Outputs) -> Tensor:
    """Relative cost of leaving at each exit, and of leaving at none [E + 1]."""
    return torch.tensor([*outputs.cost.relative, outputs.cost.relative[-1]], dtype=torch.float64)


def task_curves(outputs: Outputs, rule: ExitRule = Confidence(), thresholds: Tensor | None = None) -> list[Curve]:
    """The curve on each task seen, all at the same thresholds: T curves."""
    if thresholds is None:
        thresholds = quantile_thresholds(scores(rule, outputs))
    tasks = range(len(outputs.sizes))
    return [cost_accuracy(outputs.select(outputs.tasks == task), rule, thresholds) for task in tasks]


def average_curve(curves: Sequence[Curve], classes: Sequence[int] | None = None) -> Curve:
    """The mean over tasks of curves at the same thresholds; weighted by `classes`, how many each has, if given."""

    def mean(values: list[Tensor]) -> Tensor:
        return average(torch.stack(values), classes)

    return Curve(
        curves[0].thresholds,
        mean([curve.accuracy for curve in curves]),
        mean([curve.cost for curve in curves]),
        mean([curve.shares for curve in curves]),
    )


def exit_points(outputs: Outputs) -> Curve:
    """What each exit comes to if all samples leave there [E]; `thresholds` holds the exits."""
    exits = len(outputs.logits)
    shares = torch.eye(exits, exits + 1, dtype=torch.float64)
    accuracy = outputs.correct.double().mean(1)
    return Curve(torch.arange(exits, dtype=torch.float64), accuracy, shares @ _cost(outputs), shares)


def oracle_curve(outputs: Outputs) -> Curve:
    """The upper bound of every rule that gives exits' own answers: leave at the first exit that is right.

    Point i lets samples whose first right exit is at most i leave there, and all others at the first exit. Going from
    point to point right answers get dearer, so no other choice of samples is more accurate at the same cost.
    `thresholds` holds i [E].
    """
    exits, samples = outputs.correct.shape
    first = (~outputs.correct).cummin(0).values.sum(0)  # E where no exit is right
    points = torch.arange(exits)
    leaves = torch.where(first <= points[:, None], first, 0)  # [E, N]
    shares = torch.stack([row.bincount(minlength=exits + 1) for row in leaves]).double() / samples
    accuracy = (first <= points[:, None]).double().mean(1)
    return Curve(points.double(), accuracy, shares @ _cost(outputs), shares)


def area(curve: Curve) -> float:
    """Mean accuracy over the visited costs: the trapezoids under the curve, over the range from least to most cost.

    The accuracy of the last point if all points cost the same.
    """
    width = curve.cost[-1] - curve.cost[0]
    if width <= 0:
        return curve.accuracy[-1].item()
    return (torch.trapezoid(curve.accuracy, curve.cost) / width).item()


def cost_at_accuracy(curve: Curve, accuracy: float) -> float | None:
    """The smallest relative cost at which the curve reaches `accuracy`; None if it never does."""
    reached = curve.cost[curve.accuracy >= accuracy - 1e-9]
    return reached.min().item() if len(reached) else None


def accuracy_at_budgets(curve: Curve, budgets: Sequence[float] = BUDGETS) -> list[float]:
    """The best accuracy within each relative cost; NaN where even the cheapest point costs more."""
    return [
        affordable.max().item() if len(affordable := curve.accuracy[curve.cost <= budget + 1e-9]) else torch.nan
        for budget in budgets
    ]


def rule_within_budget(rule: ExitRule, held_out: Outputs, budget: float, per_exit: bool = False) -> ExitRule:
    """`rule` with the threshold that is most accurate on `held_out` among those within a relative cost.

    Args:
        per_exit: choose among thresholds that are the same quantile of each exit's scores, not the same score.
    Raises:
        UserError: if even the cheapest costs more.
    """
    curve = _choices(rule, held_out, per_exit)
    affordable = curve.cost <= budget + 1e-9
    if not affordable.any():
        raise UserError(f"the budget is {budget:g}; the cheapest that this network can do is {curve.cost.min():.3g}")
    # Costs ascend, so the first of equally accurate thresholds is the cheapest.
    return _at(rule, curve, curve.accuracy.where(affordable, -1).argmax())


def rule_reaching_accuracy(rule: ExitRule, held_out: Outputs, accuracy: float, per_exit: bool = False) -> ExitRule:
    """`rule` with the cheapest threshold that reaches `accuracy` on `held_out`.

    Raises:
        UserError: if none does.
    """
    curve = _choices(rule, held_out, per_exit)
    reached = curve.accuracy >= accuracy - 1e-9
    if not reached.any():
        best = curve.accuracy.max()
        raise UserError(f"the accuracy to reach is {accuracy:g}; the most that the rule reaches is {best:.3g}")
    return _at(rule, curve, reached.int().argmax())


def _choices(rule: ExitRule, outputs: Outputs, per_exit: bool) -> Curve:
    return cost_accuracy(outputs, rule, quantile_thresholds(scores(rule, outputs), per_exit=per_exit))


def _at(rule: ExitRule, curve: Curve, index: Tensor) -> ExitRule:
    chosen = curve.thresholds[index].tolist()
    return replace(rule, threshold=tuple(chosen) if isinstance(chosen, list) else chosen)


def exit_histogram(decision: Decision, groups: Tensor, num_groups: int, exits: int) -> Tensor:
    """Share of each group's samples that leave at each exit: float64 [groups, E + 1]; NaN for an empty group.

    Args:
        groups: the task or the class of each sample [N].
    """
    counts = torch.zeros(num_groups, exits + 1, dtype=torch.float64)
    counts.index_put_((groups, decision.exits), torch.ones(len(groups), dtype=torch.float64), accumulate=True)
    return counts / counts.sum(1, keepdim=True)
