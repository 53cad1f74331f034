"""The nearest class mean, on the features of every exit."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.data.samples import concatenate
from cl_ac.errors import ConfigurationError, unknown


class NearestMean(Classifier):
    """The nearest class mean (Rebuffi et al., 2017, alg. 1): `log p(c|x) = cos(x, μ_c) / temperature + constant`.

    μ_c is the mean of L2-normalised features, normalised again; answers are those of the smallest Euclidean distance
    between normalised vectors. After each task all means are computed anew with the network as it is, those of earlier
    classes from their exemplars. Earlier classes without exemplars keep the mean that they had, which the network of
    that time gave.

    Args:
        temperature: changes no exit's answers but their confidence, and with it what an early exit does; so does the
            spread of the means, which is wider in deeper exits.
        newest: what the means of the task's own classes are taken over: all their `training` data, or, as in iCaRL's
            paper, their `exemplars`; a class without exemplars takes its training data.
        normalise: whether features get unit length before their mean is taken. Without, long ones count more, as in
            SimpleCIL (Zhou et al., 2023).
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    takes_repeated_classes = True

    def __init__(
        self,
        temperature: float = 0.05,
        newest: Literal["training", "exemplars"] = "training",
        normalise: bool = True,
        **reading,
    ):
        super().__init__(**reading)
        if temperature <= 0:
            raise ConfigurationError(f"classifier.temperature is {temperature}; it must be above 0")
        if newest not in ("training", "exemplars"):
            raise ConfigurationError(unknown("classifier.newest", newest, ("training", "exemplars")))
        self.temperature, self.newest, self.normalise = temperature, newest, normalise

    def fit(self, task, network, trainer, memory) -> None:
        exemplars, train = memory.samples.without_extras(), task.train.without_extras()
        if len(memory):
            counts = exemplars.targets.bincount(minlength=task.classes_seen)
            if self.newest == "training":
                counts[task.classes] = 0
            exemplars = exemplars.select(counts[exemplars.targets] > 0)
            train = train.select((counts == 0).to(train.targets.device)[train.targets])
        samples = concatenate(train, exemplars)
        self.set_means(self.passes(network, samples, trainer), task.classes_seen)

    def set_means(self, passes: Iterable[tuple[Sequence[Tensor], Tensor]], classes: int) -> None:
        """Computes the means of `classes` classes from batches of features (E tensors [B, D_i]) and targets [B]."""
        sums: Sequence[Tensor] = ()
        for features, targets in passes:
            members = F.one_hot(targets, classes).float().T  # [C, B]
            added = [members @ (F.normalize(part) if self.normalise else part) for part in features]
            sums = [total + part for total, part in zip(sums, added, strict=True)] if sums else added
        for index, total in enumerate(sums):
            means = F.normalize(total)
            earlier = getattr(self, f"means_{index}", means[:0])
            # A mean that is kept knows nothing of features that have been added since.
            rows, columns = (new - old for new, old in zip(means.shape, earlier.shape, strict=True))
            earlier = F.pad(earlier, (0, columns, 0, rows))
            # A class without samples has a sum of zero, which normalises to zero.
            self.register_buffer(f"means_{index}", torch.where(means.any(1, keepdim=True), means, earlier))

    def score(self, index, features) -> Tensor:
        return F.normalize(features) @ getattr(self, f"means_{index}").T / self.temperature
