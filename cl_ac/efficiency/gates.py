"""Which experts run for which token, given a router's predictions.

Legend: E experts.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError
from cl_ac.kernels.gate import max_rule

GateRule = Literal["max", "cumulative", "top_k", "all"]


def highest_threshold(predictions: Tensor) -> Tensor:
    """Up to which threshold the max rule keeps each expert: [..., E] to fp32 [..., E], below 0 if at none.

    `max_rule(predictions, threshold)` is `highest_threshold(predictions) >= threshold`, up to rounding.
    """
    predictions = predictions.float()
    largest = predictions.amax(-1, keepdim=True)
    ratios = torch.where(largest > 0, predictions / largest, -1.0)
    return torch.where((predictions == largest) | ~largest.isfinite(), 1.0, ratios)


def cumulative_rule(predictions: Tensor, threshold: float) -> Tensor:
    """Keeps the smallest set of largest predictions whose share of the sum reaches the threshold.

    Negative predictions count as 0. Predictions that tie with the smallest kept one are kept, so a token whose
    predictions are all equal keeps every expert; so does one with a prediction that is not finite. The largest is
    always kept.

    Args:
        predictions: [..., E], any floating dtype, compared in fp32.
        threshold: in [0, 1].

    Returns:
        [..., E], bool.

    Raises:
        ValueError: for a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a share of the sum of predictions, in [0, 1]")
    predictions = predictions.float()
    mass = predictions.clamp(min=0)
    ordered = mass.sort(-1, descending=True).values
    before = ordered.double().cumsum(-1) - ordered
    # The first is always among those before which the threshold was not yet reached.
    needed = (before < threshold * mass.double().sum(-1, keepdim=True)).sum(-1, keepdim=True).clamp(min=1)
    smallest = ordered.gather(-1, needed - 1)
    largest = predictions.amax(-1, keepdim=True)
    kept = (mass >= smallest) & (predictions > 0) | (predictions == largest)
    return kept | ~predictions.isfinite().all(-1, keepdim=True)


def top_k_rule(predictions: Tensor, count: int) -> Tensor:
    """Keeps exactly `count` experts with the largest predictions, or all if there are no more (of equal ones any).

    A token with a prediction that is not a number keeps every expert.

    Args:
        predictions: [..., E].

    Returns:
        [..., E], bool.

    Raises:
        ValueError: for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1 expert")
    chosen = predictions.topk(min(count, predictions.shape[-1]), -1).indices
    kept = torch.zeros_like(predictions, dtype=torch.bool).scatter(-1, chosen, True)
    return kept | predictions.isnan().any(-1, keepdim=True)


@dataclass(frozen=True)
class Gate:
    """A rule with its threshold.

    Args:
        rule: `max` keeps experts whose prediction reaches `threshold` times the largest (D2DMoE), `cumulative` those
            that make up the share `threshold` of the sum, `top_k` the `threshold` largest (MoEfication), `all` all.
        threshold: a share in [0, 1]; for `top_k` a whole number of experts.

    Raises:
        ConfigurationError: if the threshold does not fit the rule.
    """

    rule: GateRule = "max"
    threshold: float = 0.01

    def __post_init__(self) -> None:
        if self.rule not in get_args(GateRule):
            raise ConfigurationError(f"gate.rule is '{self.rule}'; it must be one of {', '.join(get_args(GateRule))}")
        if self.rule == "top_k" and (self.threshold < 1 or self.threshold != int(self.threshold)):
            raise ConfigurationError(
                f"gate.threshold is {self.threshold:g}; for gate.rule top_k it must be a whole number of experts"
            )
        if self.rule in ("max", "cumulative") and not 0 <= self.threshold <= 1:
            raise ConfigurationError(
                f"gate.threshold is {self.threshold:g}; for gate.rule {self.rule} it must be between 0 and 1"
            )

    def mask(self, predictions: Tensor) -> Tensor:
        """The experts to run [..., E], bool, for predictions [..., E]."""
        if self.rule == "max":
            return max_rule(predictions, self.threshold)
        if self.rule == "cumulative":
            return cumulative_rule(predictions, self.threshold)
        if self.rule == "top_k":
            return top_k_rule(predictions, int(self.threshold))
        return torch.ones_like(predictions, dtype=torch.bool)
