"""How many weights each layer keeps: by its shape, or by the scores of its weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError


def erdos_renyi(shape: Sequence[int]) -> float:
    """The share that a weight of `shape` keeps, up to a factor that all layers have in common: small ones keep more.

    Erdős-Rényi-Kernel (Evci et al., 2020, RigL): the sum of the sides over their product.
    """
    return sum(shape) / math.prod(shape)


def kept_shares(scores: Sequence[Tensor], density: float) -> list[float]:
    """The share that each layer keeps of its weights where the highest scores of all layers are kept."""
    every = torch.cat([score.flatten() for score in scores])
    threshold = every.sort(descending=True).values[max(round(density * len(every)), 1) - 1]
    return [(score >= threshold).double().mean().item() for score in scores]


def share_out(shares: Sequence[float], sizes: Sequence[int], fewest: Sequence[int], density: float) -> list[int]:
    """How many weights each layer keeps: in proportion to `shares` of its size, and all together `density`.

    Layers that would be more than full are full, those that would have less than `fewest` have that, and the others
    share what is left.

    Raises:
        ConfigurationError: if `fewest` is more than `density` allows.
    """
    total, needed = sum(sizes), sum(fewest)
    target = round(density * total)
    if target < needed:
        raise ConfigurationError(
            f"sparse.density is {density:g}; the weights of this network can be orthogonal from "
            f"{math.ceil(1e4 * needed / total) / 1e4:g} on, one weight for each row or column of each layer"
        )
    # No layer is without a share, so that any density can be reached.
    wanted = [max(share, 1e-9 * max(shares), 1e-30) * size for share, size in zip(shares, sizes, strict=True)]

    def counts(factor: float) -> list[int]:
        triples = zip(wanted, sizes, fewest, strict=True)
        return [max(math.floor(min(factor * count, size)), least) for count, size, least in triples]

    low, high = 0.0, 2 * max(size / count for size, count in zip(sizes, wanted, strict=True))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle)) <= target else (low, middle)
    found = counts(low)
    # Less than one weight for each layer was lost in rounding.
    for index in sorted(range(len(sizes)), key=lambda index: found[index] - sizes[index])[: target - sum(found)]:
        found[index] += 1
    return found
