"""Rules that pick the entries of an activation vector worth keeping, with no router and no training.

Legend: K entries of a vector, one vector per token.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError
from cl_ac.kernels.neuron_masks import threshold_mask, top_p_mask

# Values [..., K] to the mask [..., K] of those to keep.
SparsityRule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TopP:
    """Keeps the smallest set of largest entries with a share `p` of the mass: `kernels.neuron_masks.top_p_mask`.

    Args:
        p: share, in [0, 1].
        power: of a magnitude to give its mass; 2 for energy.
    """

    p: float
    power: float = 1.0

    def __post_init__(self) -> None:
        _check_share("TopP.p", self.p)

    def __call__(self, values: Tensor) -> Tensor:
        # The kernel stops at fp32.
        return top_p_mask(values.float() if values.dtype == torch.float64 else values, self.p, self.power)


@dataclass(frozen=True)
class TopK:
    """Keeps the int(K · share) largest of K magnitudes and what ties with the last of them; drops exact zeros."""

    share: float

    def __post_init__(self) -> None:
        _check_share("TopK.share", self.share)

    def __call__(self, values: Tensor) -> Tensor:
        magnitude, count = values.abs(), int(values.shape[-1] * self.share)
        if count == 0:
            return torch.zeros_like(values, dtype=torch.bool)
        least = magnitude.topk(count, sorted=False).values.amin(-1, keepdim=True)
        return _at_least(magnitude, least)


@dataclass(frozen=True)
class MaxP:
    """Keeps magnitudes of at least `share` of the vector's largest; drops exact zeros."""

    share: float

    def __post_init__(self) -> None:
        _check_share("MaxP.share", self.share)

    def __call__(self, values: Tensor) -> Tensor:
        magnitude = values.abs()
        return _at_least(magnitude, self.share * magnitude.amax(-1, keepdim=True))


@dataclass(frozen=True)
class Threshold:
    """Keeps magnitudes above `value` (TEAL: Liu et al., 2024, arXiv 2408.14690)."""

    value: float

    def __call__(self, values: Tensor) -> Tensor:
        return threshold_mask(values, self.value)


def _at_least(magnitude: Tensor, least: Tensor) -> Tensor:
    """What is not below `least` and not zero; with a NaN in `least` all the rest, so that NaNs stay visible."""
    return ~(magnitude < least) & (magnitude != 0)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigurationError(f"{name} is {share}; it must be a share from 0 to 1")
