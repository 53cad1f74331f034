"""Gaussian classes with one covariance, on the features of every exit.

Shapes: C classes seen, D features, N samples.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.errors import ConfigurationError


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of Gaussian classes with one covariance.

    Args:
        counts: samples of each class [C].
        means: [C, D]; zero for a class without samples.
        scatter: sum over samples of `(x − μ_y)(x − μ_y)ᵀ` [D, D], or its diagonal [D].
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor, targets: Tensor, classes: int, diagonal: bool = False) -> "Statistics":
        """The statistics of features [N, D] with targets [N] below `classes`."""
        members = F.one_hot(targets, classes).to(features.dtype)  # [N, C]
        counts = members.sum(0)
        means = (members.T @ features) / counts.clamp(min=1)[:, None]
        centred = features - means[targets]
        return Statistics(counts, means, centred.square().sum(0) if diagonal else centred.T @ centred)

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both sets together: exact, in any order; `other` may have classes more."""
        missing = len(other.counts) - len(self.counts)
        counts, means = F.pad(self.counts, (0, missing)), F.pad(self.means, (0, 0, 0, missing))
        total = (counts + other.counts).clamp(min=1)
        apart = other.means - means
        spread = (counts * other.counts / total)[:, None] * apart
        between = (spread * apart).sum(0) if self.scatter.ndim == 1 else spread.T @ apart
        merged = means + (other.counts / total)[:, None] * apart
        return Statistics(counts + other.counts, merged, self.scatter + other.scatter + between)


class Gaussian(Classifier):
    """Latent prototypes: Gaussian classes with one covariance, as in linear discriminant analysis, but never singular.

    With S the pooled covariance of N samples (divisor N − 1), the precision is the Bayes form of a ridge (Kubokawa &
    Srivastava, 2008), `P = [S + tr(S) / (N − 1) · I]⁻¹`, whose ridge needs no tuning and vanishes as data grow. Then
    `log p(c|x) = x P μ_c − μ_c P μ_c / 2 + constant`, with equal priors.

    It needs no exemplars: each task's data are merged into counts, means and scatter, exactly, and forgotten. These
    belong to the network that computed them: where the backbone goes on learning, older classes' statistics go stale.

    Args:
        covariance: `full`; `diagonal`; or `spherical`, which is the nearest mean by Euclidean distance.
        scale: `unit`, P as above; `bayes`, times D / (N − 1), the scale of the latent-prototypes code. Answers are the
            same, but bayes-scaled confidences are far too low for thresholds of early exits.
        shrinkage: of streaming linear discriminant analysis (Hayes & Kanan, 2020, SLDA; there 1e-4): with ε it takes
            `P = [(1 − ε) S + ε I]⁻¹` in place of the ridge above. (In the authors' code each first sample of a class
            also counts its distance from the origin in S.)
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    needs_equal_features: ClassVar[bool] = True

    def __init__(
        self,
        covariance: Literal["full", "diagonal", "spherical"] = "full",
        scale: Literal["unit", "bayes"] = "unit",
        shrinkage: float | None = None,
        **reading,
    ):
        super().__init__(**reading)
        if shrinkage is not None and not 0 < shrinkage <= 1:
            raise ConfigurationError(f"classifier.shrinkage is {shrinkage}; it must be above 0 and at most 1")
        self.covariance, self.scale, self.shrinkage = covariance, scale, shrinkage

    def fit(self, task, network, trainer, memory) -> None:
        diagonal = self.covariance != "full"
        for features, targets in self.passes(network, task.train.without_extras(), trainer):
            for index, part in enumerate(features):
                new = Statistics.of(part.double(), targets, task.classes_seen, diagonal)
                self._keep(index, self.statistics(index).merge(new) if hasattr(self, f"counts_{index}") else new)
        for index in range(len(network)):
            kind = self.covariance == "spherical", self.scale == "bayes", self.shrinkage
            weight, bias = discriminant(self.statistics(index), *kind)
            self.register_buffer(f"weight_{index}", weight.float())
            self.register_buffer(f"bias_{index}", bias.float())

    def statistics(self, index: int) -> Statistics:
        """What is known at one exit."""
        return Statistics(*(getattr(self, f"{name}_{index}") for name in ("counts", "means", "scatter")))

    def _keep(self, index: int, statistics: Statistics) -> None:
        for name in ("counts", "means", "scatter"):
            self.register_buffer(f"{name}_{index}", getattr(statistics, name))

    def score(self, index, features) -> Tensor:
        return features @ getattr(self, f"weight_{index}").T + getattr(self, f"bias_{index}")


def discriminant(
    statistics: Statistics, spherical: bool = False, bayes: bool = False, shrinkage: float | None = None
) -> tuple[Tensor, Tensor]:
    """The linear discriminant of `Gaussian`: weight [C, D] and bias [C]."""
    means, scatter = statistics.means, statistics.scatter
    features, freedom = means.shape[1], (statistics.counts.sum() - 1).clamp(min=1)
    diagonal = scatter if scatter.ndim == 1 else scatter.diagonal()
    # All features constant: then any precision does, but it must be finite.
    ridge = (diagonal.sum() / freedom).clamp(min=torch.finfo(scatter.dtype).tiny ** 0.5)
    if shrinkage is not None:
        ridge, scatter = shrinkage * freedom, (1 - shrinkage) * scatter
    if scatter.ndim == 1:
        weight = means / ((scatter.mean() if spherical else scatter) + ridge)
    else:
        regular = scatter + ridge * torch.eye(features, dtype=scatter.dtype, device=scatter.device)
        weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(regular)).T
    weight = weight * (features if bayes else freedom)
    return weight, -0.5 * (weight * means).sum(1)
