"""Feature translation: old classes are learned from features of new ones, moved to where the old ones were.

Shapes: N samples, C classes seen, D features.
"""

from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.classifiers.fitting import minimise
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError, unknown

Separation = Literal["hinge", "softmax"]


class FeTrIL(Classifier):
    """A linear classifier on features of new classes and pseudo-features of old ones (Petit et al., 2023, FeTrIL).

    Of an old class c only the mean μ_c is kept. The new class n whose mean is nearest lends its features x:
    `x − μ_n + μ_c` stand for those of c. After each task a linear classifier is fitted anew to the L2-normalised
    features of all classes, as in the authors' code. Made for a frozen backbone: elsewhere old means go stale.

    Args:
        loss: `hinge`, one support vector machine for each class against the rest, with squared hinges; `softmax`,
            the cross-entropy, as the paper's variant with a fully-connected layer.
        strength: weight of the loss, summed over samples, against half of the squared weights (C of the machines).
        temperature: by which scores are divided; changes no exit's answers but their confidence. None takes 0.2 for
            `hinge`, whose scores are meant to be ±1, and 1 for `softmax`.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    needs_equal_features: ClassVar[bool] = True

    def __init__(self, loss: Separation = "hinge", strength: float = 1.0, temperature: float | None = None, **reading):
        super().__init__(**reading)
        if loss not in get_args(Separation):
            raise ConfigurationError(unknown("classifier.loss", loss, get_args(Separation)))
        if temperature is None:
            temperature = 0.2 if loss == "hinge" else 1.0
        for name, value in (("strength", strength), ("temperature", temperature)):
            if value <= 0:
                raise ConfigurationError(f"classifier.{name} is {value}; it must be above 0")
        self.loss, self.strength, self.temperature = loss, strength, temperature

    def fit(self, task, network, trainer, memory) -> None:
        batches = list(self.passes(network, task.train.without_extras(), trainer))
        targets = torch.cat([part for _, part in batches])
        for index in range(len(network)):
            features = torch.cat([parts[index] for parts, _ in batches])
            means = getattr(self, f"means_{index}", features[:0])
            means = torch.cat([means, class_means(features, targets, task)])
            rows, classes = with_pseudo_features(features, targets, means, task)
            weight = separate(F.normalize(rows), classes, len(means), self.loss, self.strength)
            self.register_buffer(f"means_{index}", means)
            self.register_buffer(f"weight_{index}", weight)

    def score(self, index, features) -> Tensor:
        weight = getattr(self, f"weight_{index}")
        return F.linear(F.normalize(features), weight[:, :-1], weight[:, -1]) / self.temperature


def class_means(features: Tensor, targets: Tensor, task: Task) -> Tensor:
    """The mean features of the task's classes [classes of the task, D]; zero for a class without samples."""
    members = F.one_hot(targets - task.classes.start, task.num_classes).to(features.dtype)
    return members.T @ features / members.sum(0).clamp(min=1)[:, None]


def with_pseudo_features(features: Tensor, targets: Tensor, means: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """The features [N, D] of a task's samples with targets [N], and after them those made of them for old classes.

    Args:
        means: of all classes so far [C, D].
    """
    present = targets.unique()
    nearest = present[torch.cdist(means[task.old_classes], means[present]).argmin(1)]
    rows, classes = [features], [targets]
    for old, new in enumerate(nearest.tolist()):
        lent = features[targets == new]
        rows.append(lent - means[new] + means[old])
        classes.append(torch.full_like(targets[: len(lent)], old))
    return torch.cat(rows), torch.cat(classes)


def separate(features: Tensor, targets: Tensor, classes: int, loss: Separation, strength: float) -> Tensor:
    """The linear classifier of features [N, D] with targets [N]: weights, and the bias behind them, [C, D + 1].

    The minimum of `|W|² / 2 + strength · Σ_n loss_n`, the bias counted among the weights as liblinear does.
    """
    weight = features.new_zeros(classes, features.shape[1] + 1)
    members = F.one_hot(targets, classes)

    def objective() -> Tensor:
        scores = F.linear(features, weight[:, :-1], weight[:, -1])
        if loss == "softmax":
            errors = F.cross_entropy(scores, targets, reduction="sum")
        else:
            errors = F.relu(1 - (2 * members - 1) * scores).square().sum()
        return weight.square().sum() / 2 + strength * errors

    minimise(objective, [weight])
    return weight
