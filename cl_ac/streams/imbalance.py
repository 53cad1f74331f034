"""Classes with many and with few samples (Liu et al., 2022, long-tailed class-incremental learning)."""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.streams.dealing import members

Kind = Literal["exp", "step"]


def shares(number: int, factor: float, kind: Kind) -> Tensor:
    """How many samples a class keeps, as a share of what the largest keeps.

    Args:
        number: of classes C, of ranks 0 (largest) to C - 1.
        factor: share of the smallest class, above 0, at most 1.
        kind: `exp` is factor^(rank / (C - 1)); with `step` the first half of the classes (the larger one of an odd
            number) keeps all and the others the share `factor`.
    Returns:
        float64 [C], which does not rise.
    """
    ranks = torch.arange(number, dtype=torch.float64)
    if kind == "step":
        return torch.ones_like(ranks).masked_fill(ranks >= (number + 1) // 2, factor)
    return factor ** (ranks / max(number - 1, 1))


def quotas(counts: Tensor, factor: float, kind: Kind) -> Tensor:
    """How many samples each class keeps: the most with which the shares are met, whole numbers of at least 1.

    Args:
        counts: int64 [C], the number of samples of each class, largest rank first as in `shares`.
        factor: see `shares`.
        kind: see `shares`.
    Returns:
        int64 [C], each at most the class's count.
    """
    kept = shares(len(counts), factor, kind)
    largest = (counts / kept).min().floor()
    # Rounding errors must not turn 500 · 0.01 into 4.
    return (largest * kept + 1e-9).floor().long().clamp(min=1)


def long_tailed(targets: Tensor, order: Tensor, factor: float, kind: Kind, seed: int) -> Tensor:
    """The samples that are left when classes are thinned out.

    Args:
        targets: int64 [N], the class of each sample; labels are 0 to C - 1.
        order: int64 [C], labels from the class that keeps most to the one that keeps least: the order of arrival where
            the tail comes last, a random one where tasks are mixed.
        factor: see `shares`.
        kind: see `shares`.
        seed: of the samples that are kept.
    Returns:
        indices into `targets`, rising.
    """
    of_class = members(targets, generator(seed, "long tail"))
    counts = torch.tensor([len(of_class[label]) for label in order.tolist()])
    kept = [
        of_class[label][:quota]
        for label, quota in zip(order.tolist(), quotas(counts, factor, kind).tolist(), strict=True)
    ]
    return torch.cat(kept).sort().values
