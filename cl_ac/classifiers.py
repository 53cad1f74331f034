"""Classifiers that answer at inference in place of the trained linear heads, on the features of every exit.

They stand on any approach and change nothing in training. Shapes: E exits, B batch, C classes seen, D_i features of
exit i, N samples.

Logits are log-probabilities, so that their softmax is a confidence which early-exit rules can compare over exits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.benchmark import Task
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.samples import Samples, concatenate
from cl_ac.state import Growing

if TYPE_CHECKING:
    from cl_ac.training import Trainer

Aggregation = Literal["own", "uniform", "learned"]


class Classifier(Growing):
    """Answers from features. A subclass defines `fit` and `score`.

    Features do not depend on the linear heads, so that statistics stay valid while those grow and learn: a feature map
    is pooled to at most `side` × `side` cells, of tokens the first is taken and layer-normalised, a vector stays.

    Exits may answer together. The log-probabilities of exit i and of all shallower exits, which an early exit at i has
    computed anyway, are added with non-negative weights A [E, E], zero above the diagonal: `z_i = Σ_l A_il log p_l`.

    Args:
        aggregation: `own`, each exit answers alone; `uniform`, the mean over exits so far; `learned`, weights fitted
            after each task by cross-entropy on held-out samples of the task and the exemplars (uniform if there are
            neither; test samples are never used).
        sparsity: L1 penalty on learned weights; more of it uses fewer exits.
        pooling: how a feature map is reduced.
        side: largest side of the pooled map.
    """

    # Whether `score` reads the linear head's logits of an exit in place of its features.
    reads_logits: ClassVar[bool] = False

    def __init__(
        self,
        aggregation: Aggregation = "own",
        sparsity: float = 0.01,
        pooling: Literal["average", "max"] = "average",
        side: int = 4,
    ):
        super().__init__()
        if sparsity < 0:
            raise ConfigurationError(f"classifier.sparsity is {sparsity}; it must be at least 0")
        if side < 1:
            raise ConfigurationError(f"classifier.side is {side}; it must be at least 1")
        self.aggregation, self.sparsity, self.pooling, self.side = aggregation, sparsity, pooling, side
        self.register_buffer("weights", torch.empty(0, 0))

    def fit(self, task: Task, network: ExitNetwork, trainer: "Trainer", memory: Memory) -> None:
        """Learns the classes of `task`, after training."""
        raise NotImplementedError

    def score(self, index: int, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities [B, C] of exit `index` alone, from its features [B, D_i]."""
        raise NotImplementedError

    def scores(self, features: Sequence[Tensor]) -> Tensor:
        """Unnormalised log-probabilities [E, B, C] of each exit alone."""
        return torch.stack([self.score(index, part) for index, part in enumerate(features)])

    def update(self, task: Task, network: ExitNetwork, trainer: "Trainer", memory: Memory) -> None:
        """Learns the classes of `task` and how to weigh the exits; called once after each task."""
        self.fit(task, network, trainer, memory)
        exits = len(network)
        device = trainer.device
        self.weights = torch.eye(exits, device=device)
        if self.aggregation != "own":
            self.weights = torch.ones_like(self.weights).tril() / torch.arange(1, exits + 1, device=device)[:, None]
        held_out = [] if task.validation is task.test else [task.validation.without_extras()]
        samples = concatenate(*held_out, memory.samples.without_extras())
        if self.aggregation == "learned" and len(samples):
            passes = list(self.passes(network, samples, trainer))
            scores = torch.cat([self.scores(features) for features, _ in passes], 1)
            self.weights = fit_weights(scores, torch.cat([targets for _, targets in passes]), self.sparsity)

    def features(self, network: ExitNetwork, images: Tensor) -> list[Tensor]:
        """What is known of each image at each exit: E tensors [B, D_i]."""
        return [self.vector(hidden).float() for hidden in network.hidden(images)]

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """[E, B, C]."""
        scores = self.scores(features).log_softmax(-1)
        return torch.einsum("il,lbc->ibc", self.weights.to(scores.dtype), scores)

    def logits_at(self, index: int, log_probabilities: Tensor) -> Tensor:
        """What `logits` gives for exit `index` [B, C], from log-probabilities [index + 1, B, C] of the exits so far."""
        weights = self.weights[index, : index + 1].to(log_probabilities.dtype)
        return torch.tensordot(weights, log_probabilities, 1)

    def vector(self, hidden: Tensor) -> Tensor:
        """What is known of each image at an exit whose head reads `hidden`: [B, D_i]."""
        if hidden.ndim == 4:
            size = [min(side, self.side) for side in hidden.shape[2:]]
            pool = F.adaptive_avg_pool2d if self.pooling == "average" else F.adaptive_max_pool2d
            return pool(hidden, size).flatten(1)
        return F.layer_norm(hidden[:, 0], hidden.shape[-1:]) if hidden.ndim == 3 else hidden

    @torch.no_grad()
    def passes(
        self, network: ExitNetwork, samples: Samples, trainer: "Trainer"
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Features and targets of batches of `samples`, without augmentation."""
        network.eval()
        loader, size = trainer.loader(samples), 256
        for images, targets in zip(loader.in_order(size), loader.samples.targets.split(size), strict=True):
            with trainer.autocast():
                features = self.features(network, images)
            yield features, targets


class NearestMean(Classifier):
    """The nearest class mean (Rebuffi et al., 2017, alg. 1): `log p(c|x) = cos(x, μ_c) / temperature + constant`.

    μ_c is the mean of L2-normalised features, normalised again; answers are those of the smallest Euclidean distance
    between normalised vectors. After each task all means are computed anew with the network as it is: of the task's
    classes from all their training data, of earlier classes from their exemplars. Classes without exemplars keep the
    mean that they had, which the network of that time gave.

    Args:
        temperature: changes no exit's answers but their confidence, and with it what an early exit does; so does the
            spread of the means, which is wider in deeper exits.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    def __init__(self, temperature: float = 0.05, **reading):
        super().__init__(**reading)
        if temperature <= 0:
            raise ConfigurationError(f"classifier.temperature is {temperature}; it must be above 0")
        self.temperature = temperature

    def fit(self, task, network, trainer, memory) -> None:
        exemplars = memory.samples.without_extras()
        old = exemplars.select((exemplars.targets < task.classes.start).nonzero()[:, 0]) if len(memory) else exemplars
        samples = concatenate(task.train.without_extras(), old)
        self.set_means(self.passes(network, samples, trainer), task.classes_seen)

    def set_means(self, passes: Iterable[tuple[Sequence[Tensor], Tensor]], classes: int) -> None:
        """Computes the means of `classes` classes from batches of features (E tensors [B, D_i]) and targets [B]."""
        sums: Sequence[Tensor] = ()
        for features, targets in passes:
            members = F.one_hot(targets, classes).float().T  # [C, B]
            added = [members @ F.normalize(part) for part in features]
            sums = [total + part for total, part in zip(sums, added, strict=True)] if sums else added
        for index, total in enumerate(sums):
            means = F.normalize(total)
            earlier = getattr(self, f"means_{index}", means[:0])
            earlier = F.pad(earlier, (0, 0, 0, len(means) - len(earlier)))
            # A class without samples has a sum of zero, which normalises to zero.
            self.register_buffer(f"means_{index}", torch.where(means.any(1, keepdim=True), means, earlier))

    def score(self, index, features) -> Tensor:
        return F.normalize(features) @ getattr(self, f"means_{index}").T / self.temperature


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
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    def __init__(
        self,
        covariance: Literal["full", "diagonal", "spherical"] = "full",
        scale: Literal["unit", "bayes"] = "unit",
        **reading,
    ):
        super().__init__(**reading)
        self.covariance, self.scale = covariance, scale

    def fit(self, task, network, trainer, memory) -> None:
        diagonal = self.covariance != "full"
        for features, targets in self.passes(network, task.train.without_extras(), trainer):
            for index, part in enumerate(features):
                new = Statistics.of(part.double(), targets, task.classes_seen, diagonal)
                self._keep(index, self.statistics(index).merge(new) if hasattr(self, f"counts_{index}") else new)
        for index in range(len(network)):
            weight, bias = discriminant(self.statistics(index), self.covariance == "spherical", self.scale == "bayes")
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


def discriminant(statistics: Statistics, spherical: bool = False, bayes: bool = False) -> tuple[Tensor, Tensor]:
    """The linear discriminant of `Gaussian`: weight [C, D] and bias [C]."""
    means, scatter = statistics.means, statistics.scatter
    features, freedom = means.shape[1], (statistics.counts.sum() - 1).clamp(min=1)
    diagonal = scatter if scatter.ndim == 1 else scatter.diagonal()
    # All features constant: then any precision does, but it must be finite.
    ridge = (diagonal.sum() / freedom).clamp(min=torch.finfo(scatter.dtype).tiny ** 0.5)
    if scatter.ndim == 1:
        weight = means / ((scatter.mean() if spherical else scatter) + ridge)
    else:
        regular = scatter + ridge * torch.eye(features, dtype=scatter.dtype, device=scatter.device)
        weight = torch.cholesky_solve(means.T, torch.linalg.cholesky(regular)).T
    weight = weight * (features if bayes else freedom)
    return weight, -0.5 * (weight * means).sum(1)


def fit_weights(scores: Tensor, targets: Tensor, sparsity: float) -> Tensor:
    """The non-negative weights A [E, E], zero above the diagonal, that minimise for each exit the cross-entropy of
    `Σ_l A_il log p_l` plus `sparsity · Σ_l A_il`: a convex problem, solved with bounds, so that zeros are exact.

    Args:
        scores: unnormalised log-probabilities [E, N, C].
        targets: [N].
    """
    from scipy.optimize import minimize

    log_probabilities = scores.double().log_softmax(-1)
    weights = torch.zeros(len(scores), len(scores))
    for index in range(len(scores)):
        visible = log_probabilities[: index + 1]

        def objective(values, visible: Tensor = visible) -> tuple[float, object]:
            row = torch.tensor(values, device=visible.device, requires_grad=True)
            loss = F.cross_entropy(torch.tensordot(row, visible, 1), targets) + sparsity * row.sum()
            (gradient,) = torch.autograd.grad(loss, row)
            return loss.item(), gradient.cpu().numpy()

        start = [1 / (index + 1)] * (index + 1)
        result = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start))
        weights[index, : index + 1] = torch.from_numpy(result.x)
    return weights.to(scores.device)
