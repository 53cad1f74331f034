"""Prototypes of groups of texts at every layer of a model, with one covariance for each layer.

The statistics and the discriminant are those of `classifiers.gaussian`, over all layers at once. Shapes: L layers, N
texts, D features, P prototypes, S sources, C labels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from cl_ac.classifiers.gaussian import Statistics, discriminant

Scale = Literal["bayes", "unit"]


@dataclass(frozen=True)
class LayerStatistics:
    """Counts, means and scatter of prototypes at each layer: what two sets have together is known exactly.

    Args:
        counts: texts of each prototype [P].
        means: [L, P, D].
        scatter: sum over texts of `(x − μ)(x − μ)ᵀ` [L, D, D].
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor, prototypes: Tensor, count: int) -> "LayerStatistics":
        """Those of features [L, N, D], in double precision, of texts that belong to `prototypes` [N] below `count`."""

        def one(layer: Tensor) -> tuple[Tensor, Tensor]:
            found = Statistics.of(layer, prototypes, count)
            return found.means, found.scatter

        means, scatter = torch.vmap(one)(features.double())
        return LayerStatistics(torch.bincount(prototypes, minlength=count).double(), means, scatter)

    def merge(self, other: "LayerStatistics") -> "LayerStatistics":
        """Those of both sets together: exact, in any order; `other` may have prototypes more."""

        def one(means: Tensor, scatter: Tensor, its_means: Tensor, its_scatter: Tensor) -> tuple[Tensor, Tensor]:
            both = Statistics(self.counts, means, scatter).merge(Statistics(other.counts, its_means, its_scatter))
            return both.means, both.scatter

        means, scatter = torch.vmap(one)(self.means, self.scatter, other.means, other.scatter)
        counts = F.pad(self.counts, (0, len(other.counts) - len(self.counts))) + other.counts
        return LayerStatistics(counts, means, scatter)


class LayerPrototypes:
    """What statistics say of a text: `log p_l(c | x)`, and how far it is from everything known.

    Prototypes of one source compete with each other, with equal prior probabilities of its labels; several prototypes
    of a label share that of the label.

    Args:
        statistics: of all prototypes.
        sources: the source of each [P].
        labels: the label of each [P].
        scale: of the precision, see `classifiers.gaussian.Gaussian`: `bayes` tempers posteriors as the published method
            does, `unit` leaves them as the Gaussian has them.
    """

    def __init__(self, statistics: LayerStatistics, sources: Tensor, labels: Tensor, scale: Scale = "bayes"):
        self.statistics, self.sources, self.labels, self.scale = statistics, sources, labels, scale
        counts = statistics.counts

        def one(means: Tensor, scatter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            weight, bias = discriminant(Statistics(counts, means, scatter), bayes=scale == "bayes")
            freedom = (counts.sum() - 1).clamp(min=1)
            ridge = (scatter.diagonal().sum() / freedom).clamp(min=torch.finfo(scatter.dtype).tiny ** 0.5)
            regular = (scatter + ridge * torch.eye(len(scatter), dtype=scatter.dtype)) / freedom
            return weight, bias, torch.linalg.cholesky(regular)

        weight, bias, self.roots = torch.vmap(one)(statistics.means, statistics.scatter)
        siblings = (sources[:, None] == sources) & (labels[:, None] == labels) & (counts > 0)
        bias = bias - siblings.sum(1).clamp(min=1).double().log()
        self.weight, self.bias = weight, bias.masked_fill(counts == 0, -torch.inf)

    @property
    def num_sources(self) -> int:
        return int(self.sources.max()) + 1

    @property
    def num_labels(self) -> int:
        return int(self.labels.max()) + 1

    def log_posteriors(self, features: Tensor, layers: slice = slice(None)) -> Tensor:
        """`log p_l(label | x)` for each source [L, N, S, C], −inf of a label that a source has not.

        Args:
            features: [L, N, D] of these layers.
        """
        weight, bias = self.weight[layers], self.bias[layers]
        scores = features.double() @ weight.mT + bias[:, None]
        found = scores.new_full((*scores.shape[:2], self.num_sources, self.num_labels), -torch.inf)
        for source in range(self.num_sources):
            for label in range(self.num_labels):
                here = (self.sources == source) & (self.labels == label)
                if here.any():
                    found[:, :, source, label] = scores[:, :, here].logsumexp(-1)
        return found.log_softmax(-1)

    def distances(self, features: Tensor) -> Tensor:
        """How many deviations a text is away from the nearest prototype, at each layer [L, N]: the Mahalanobis distance
        over √D, about 1 for texts like those that the statistics are of."""
        known = self.statistics.means[:, self.statistics.counts > 0]
        values, means = (
            torch.linalg.solve_triangular(self.roots, part.double().mT, upper=False).mT for part in (features, known)
        )
        return torch.cdist(values, means).amin(-1) / features.shape[-1] ** 0.5
