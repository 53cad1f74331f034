"""Several Gaussian prototypes for each class, with one covariance, at every exit, and exits that answer together.

Shapes: C classes seen, D features, N samples, K prototypes of a class.
"""

from typing import Literal

import torch
from torch import Tensor

from cl_ac.classifiers.classifier import Aggregation
from cl_ac.classifiers.gaussian import Gaussian, Statistics, discriminant
from cl_ac.errors import ConfigurationError


class LatentPrototypes(Gaussian):
    """Multi-layer latent prototypes (Chrabąszcz et al., 2026, MLPM) for classes that arrive in tasks.

    Each class has K prototypes, found by k-means at the final exit; all share one covariance at each exit, whose
    precision is that of `Gaussian`. `log p(c|x)` is that of the sum of a class's densities, and exits are weighed
    together as `aggregation` says, by weights most of which are zero. It needs neither training nor exemplars: with
    `--exits sdn`, a frozen backbone and `cl-ac exits` these are early exits without training.

    Args:
        prototypes: of each class, K. The published method has one.
        aggregation: as of `Classifier`.
        scale: as of `Gaussian`; only `unit` gives confidences that early exits can compare.
        reading: further options of `Gaussian` and `Classifier`.
    """

    def __init__(
        self,
        prototypes: int = 1,
        aggregation: Aggregation = "learned",
        scale: Literal["unit", "bayes"] = "unit",
        **reading,
    ):
        if prototypes < 1:
            raise ConfigurationError(f"classifier.prototypes is {prototypes}; it must be at least 1")
        super().__init__(aggregation=aggregation, scale=scale, **reading)
        if self.shrinkage is not None and prototypes > 1:
            raise ConfigurationError(
                f"classifier.shrinkage is {self.shrinkage} and classifier.prototypes is {prototypes}; take 1 of them"
            )
        self.prototypes = prototypes
        # Prototypes are chosen among the samples of one task.
        self.takes_repeated_classes = self.takes_repeated_classes and prototypes == 1

    def fit(self, task, network, trainer, memory) -> None:
        if self.prototypes == 1:
            super().fit(task, network, trainer, memory)
            return
        passes = list(self.passes(network, task.train.without_extras(), trainer))
        features = [torch.cat(parts).double() for parts in zip(*(each for each, _ in passes), strict=True)]
        targets = torch.cat([targets for _, targets in passes])
        rows = clusters(features[-1], targets, self.prototypes)
        count = task.classes_seen * self.prototypes
        for index, part in enumerate(features):
            self._add(index, Statistics.of(part, rows, count, self.covariance != "full"))
            statistics = self.statistics(index)
            weight, bias = discriminant(statistics, self.covariance == "spherical", self.scale == "bayes")
            known = (statistics.counts > 0).view(-1, self.prototypes)
            # Equal priors of classes, whose prototypes share them; one without samples is nobody's.
            share = known.sum(1, keepdim=True).clamp(min=1).double().log().expand_as(known).flatten()
            bias = (bias - share).masked_fill(~known.flatten(), -torch.inf)
            self.register_buffer(f"weight_{index}", weight.float())
            self.register_buffer(f"bias_{index}", bias.float())

    def score(self, index, features) -> Tensor:
        scores = super().score(index, features)
        return scores if self.prototypes == 1 else scores.unflatten(1, (-1, self.prototypes)).logsumexp(2)


def clusters(features: Tensor, targets: Tensor, per_class: int) -> Tensor:
    """The prototype that each sample belongs to [N]: `target · K + cluster`, by k-means inside each class.

    Args:
        features: [N, D].
        targets: [N].
        per_class: K; a class with fewer samples has as many prototypes as samples.
    """
    from sklearn.cluster import KMeans

    found = targets * per_class
    for target in targets.unique().tolist():
        members = (targets == target).nonzero()[:, 0]
        model = KMeans(min(per_class, len(members)), n_init=3, random_state=0)
        found[members] += torch.as_tensor(model.fit_predict(features[members].cpu().numpy())).long().to(found.device)
    return found
