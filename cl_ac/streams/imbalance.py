"""Classes with many and with few samples (Liu et al., 2022, long-tailed class-incremental learning)."""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.streams.dealing import members, shuffled
from cl_ac.streams.stream import Arrival, Labels

Kind = Literal["exp", "step"]


class LongTailed(ClassIncremental):
    """Each task brings classes of its own, of which some have many more training images than others.

    Held-out and test images stay as they are. Long-tailed class-incremental learning (Liu et al., 2022).

    Args:
        factor: share of its images that the smallest class keeps.
        kind: `exp` takes ever more from each class; `step` takes nothing from one half of the classes, and as much
            from each of the others.
        order: `ordered` lets classes come from the largest to the smallest; `shuffled` mixes them.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(
        self,
        factor: float = 0.01,
        kind: Kind = "exp",
        order: Literal["ordered", "shuffled"] = "shuffled",
        boundaries: bool = True,
    ):
        super().__init__(boundaries)
        if not 0 < factor <= 1:
            raise ConfigurationError(f"stream.factor is {factor:g}; it must be above 0 and at most 1")
        self.factor, self.kind, self.order = factor, kind, order

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        whole = super().arrivals(labels, seed)
        order = torch.arange(self.num_classes(labels.split))
        if self.order == "shuffled":
            order = shuffled(order, generator(seed, "sizes of classes"))
        kept = torch.zeros(len(labels.targets), dtype=torch.bool)
        kept[long_tailed(labels.targets, order, self.factor, self.kind, seed)] = True
        return [Arrival(arrival.train[kept[arrival.train]]) for arrival in whole]


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
        targets: int64 [N], the class of each sample; labels are 0 to C - 1, some of which may not occur.
        order: int64 [C], labels from the class that keeps most to the one that keeps least: the order of arrival where
            the tail comes last, a random one where tasks are mixed.
        factor: see `shares`.
        kind: see `shares`.
        seed: of the samples that are kept.
    Returns:
        indices into `targets`, rising.
    """
    of_class = dict(zip(targets.unique().tolist(), members(targets, generator(seed, "long tail")), strict=True))
    occurring = [of_class[label] for label in order.tolist() if label in of_class]
    counts = torch.tensor([len(indices) for indices in occurring])
    kept = [indices[:quota] for indices, quota in zip(occurring, quotas(counts, factor, kind).tolist(), strict=True)]
    return torch.cat(kept).sort().values
