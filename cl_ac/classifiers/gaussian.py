"""Gaussian classes with one covariance, on the features of every exit.

Shapes: C classes seen, D features, N samples.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import BLOCK, Classifier
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer

# Shrinkage that is not given, but estimated from the data.
ESTIMATED = ("ledoit_wolf", "class_ledoit_wolf")


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
        if self.scatter.ndim == 1:
            between = (spread * apart).sum(0)
        else:
            # Few of all classes are in both sets.
            both = (counts * other.counts).nonzero()[:, 0]
            between = spread[both].T @ apart[both]
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
            also counts its distance from the origin in S.) With `ledoit_wolf`, `P = [(1 − ε) S + ε tr(S) / D · I]⁻¹`
            and ε estimated from the data (Ledoit & Wolf, 2004), for a full covariance only. It is that of all data at
            once, in any order of tasks, and takes a second pass over each task's data. With `class_ledoit_wolf` S is
            the mean over samples of covariances that are shrunk so class by class, each of standardised features, as
            scikit-learn's linear discriminant analysis (`shrinkage="auto"`) has it.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    needs_equal_features: ClassVar[bool] = True

    def __init__(
        self,
        covariance: Literal["full", "diagonal", "spherical"] = "full",
        scale: Literal["unit", "bayes"] = "unit",
        shrinkage: float | Literal["ledoit_wolf", "class_ledoit_wolf"] | None = None,
        **reading,
    ):
        super().__init__(**reading)
        if isinstance(shrinkage, str):
            if shrinkage not in ESTIMATED:
                raise ConfigurationError(unknown("classifier.shrinkage", shrinkage, ESTIMATED))
            if covariance != "full":
                raise ConfigurationError(
                    f"classifier.shrinkage is {shrinkage} and classifier.covariance is {covariance}; "
                    "it is estimated for a full covariance only"
                )
        elif shrinkage is not None and not 0 < shrinkage <= 1:
            raise ConfigurationError(f"classifier.shrinkage is {shrinkage}; it must be above 0 and at most 1")
        self.covariance, self.scale, self.shrinkage = covariance, scale, shrinkage
        # Fourth powers of earlier images would be those of distances from other means.
        self.takes_repeated_classes = shrinkage not in ESTIMATED

    def fit(self, task, network, trainer, memory) -> None:
        if self.shrinkage == "class_ledoit_wolf":
            self._add_shrunk_classes(task, network, trainer)
        else:
            diagonal = self.covariance != "full"
            for features, targets in self.passes(network, task.train.without_extras(), trainer, block=BLOCK):
                for index, part in enumerate(features):
                    self._add(index, Statistics.of(part.double(), targets, task.classes_seen, diagonal))
        if self.shrinkage == "ledoit_wolf":
            self._add_fourth_powers(task, network, trainer)
        given = self.shrinkage
        if isinstance(given, str):
            given = None if given == "ledoit_wolf" else 0.0  # what each class was shrunk by is in the scatter
        for index in range(len(network)):
            weight, bias = discriminant(
                self.statistics(index),
                self.covariance == "spherical",
                self.scale == "bayes",
                given,
                getattr(self, f"fourth_powers_{index}", None),
            )
            self.register_buffer(f"weight_{index}", weight.float())
            self.register_buffer(f"bias_{index}", bias.float())

    def _add_shrunk_classes(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Adds each class of the task with its own shrunk covariance in place of what its samples scatter."""
        samples = task.train.without_extras()
        for target in samples.targets.unique().tolist():
            members = samples.select(samples.targets == target)
            batches = [features for features, _ in self.passes(network, members, trainer)]
            for index, parts in enumerate(zip(*batches, strict=True)):
                features = torch.cat(parts).double()
                labels = torch.full((len(features),), target, device=features.device)
                known = Statistics.of(features, labels, task.classes_seen)
                self._add(index, replace(known, scatter=len(features) * shrunk_covariance(features)))

    def _add(self, index: int, new: Statistics) -> None:
        merged = self.statistics(index).merge(new) if hasattr(self, f"counts_{index}") else new
        for name in ("counts", "means", "scatter"):
            self.register_buffer(f"{name}_{index}", getattr(merged, name))

    def _add_fourth_powers(self, task: Task, network: ExitNetwork, trainer: Trainer) -> None:
        """Adds `Σ |x − μ_y|⁴` over the task's data, whose classes' means are known by now and stay as they are."""
        for features, targets in self.passes(network, task.train.without_extras(), trainer):
            for index, part in enumerate(features):
                new = (part.double() - self.statistics(index).means[targets]).square().sum(1).square().sum()
                self.register_buffer(f"fourth_powers_{index}", getattr(self, f"fourth_powers_{index}", 0) + new)

    def statistics(self, index: int) -> Statistics:
        """What is known at one exit."""
        return Statistics(*(getattr(self, f"{name}_{index}") for name in ("counts", "means", "scatter")))

    def score(self, index, features) -> Tensor:
        return features @ getattr(self, f"weight_{index}").T + getattr(self, f"bias_{index}")


def ledoit_wolf(statistics: Statistics, fourth_powers: Tensor) -> Tensor:
    """The ε for which `(1 − ε) S + ε tr(S) / D · I` is expected to be nearest to the true covariance (Ledoit & Wolf,
    2004, lemma 3.2 on), S the pooled covariance with divisor N.

    Never 0, so that a precision exists; at least 1e-10.

    Args:
        statistics: with a full scatter.
        fourth_powers: sum over samples of `|x − μ_y|⁴`.
    """
    samples, features = statistics.counts.sum().clamp(min=1), statistics.means.shape[1]
    covariance = statistics.scatter / samples
    squared = covariance.square().sum()
    apart = squared - covariance.trace().square() / features
    error = (fourth_powers / samples - squared) / samples
    # Without any variance both are 0, and rounding may leave either a little below.
    return (error / apart.clamp(min=torch.finfo(apart.dtype).tiny)).clamp(1e-10, 1)


def shrunk_covariance(features: Tensor) -> Tensor:
    """The covariance [D, D] of one class's features [N, D], shrunk by `ledoit_wolf` where each has variance 1."""
    centred = features - features.mean(0)
    deviation = centred.square().mean(0).sqrt()
    deviation = deviation.where(deviation > 0, 1)
    standard = centred / deviation
    known = Statistics(features.new_tensor([len(features)]), features[:1], standard.T @ standard)
    share = ledoit_wolf(known, standard.square().sum(1).square().sum())
    covariance = (1 - share) * known.scatter / len(features)
    covariance.diagonal().add_(share * known.scatter.diagonal().mean() / len(features))
    return deviation[:, None] * covariance * deviation


def discriminant(
    statistics: Statistics,
    spherical: bool = False,
    bayes: bool = False,
    shrinkage: float | None = None,
    fourth_powers: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The linear discriminant of `Gaussian`: weight [C, D] and bias [C]; with `fourth_powers`, that of Ledoit & Wolf's
    shrinkage, see `ledoit_wolf`."""
    means, scatter = statistics.means, statistics.scatter
    features, freedom = means.shape[1], (statistics.counts.sum() - 1).clamp(min=1)
    diagonal = scatter if scatter.ndim == 1 else scatter.diagonal()
    # All features constant: then any precision does, but it must be finite.
    least = torch.finfo(scatter.dtype).tiny ** 0.5
    ridge = (diagonal.sum() / freedom).clamp(min=least)
    if fourth_powers is not None:
        share = ledoit_wolf(statistics, fourth_powers)
        ridge, scatter = (share * diagonal.mean()).clamp(min=least), (1 - share) * scatter
    elif shrinkage is not None:
        ridge, scatter = (shrinkage * freedom).clamp(min=least), (1 - shrinkage) * scatter
    if scatter.ndim == 1:
        weight = means / ((scatter.mean() if spherical else scatter) + ridge)
    else:
        regular = scatter + ridge * torch.eye(features, dtype=scatter.dtype, device=scatter.device)
        weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(regular)).T
    weight = weight * (features if bayes else freedom)
    return weight, -0.5 * (weight * means).sum(1)
