"""What a generator is.

Shapes: B batch, C classes seen so far, L levels.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data.growing import Growing
from cl_ac.errors import ConfigurationError


class Generator(Growing):
    """Draws features like those that it was fitted to, of classes that are asked for.

    Features are images, or what stages of a network give. A generator may know those of several levels, which are
    numbered from 0, the shallowest, on: it decodes from its latent values up to the deepest level first and goes on
    down to shallower ones, so that a sample of a deep level costs less than one of a shallow level.

    It is a module: it learns by the gradient of `loss`, and what it keeps in parameters and buffers is saved and
    resumed bit for bit, if `build` was called before the state is loaded. Its first weights come from torch's global
    stream (see `cl_ac.data.seeding.global_stream`), all other draws from the CPU generator `stream` that it is given.
    Nothing in it waits for the device.

    Targets are class numbers, int64 [B], or the probability of each class, float [B, C].
    """

    @abstractmethod
    def build(self, shapes: Sequence[Sequence[int]], reads: Sequence[int] | None = None) -> None:
        """Makes its layers, on the CPU; called once, before the first `grow` or before a state is loaded.

        Args:
            shapes: of one sample's features at each level, shallowest first.
            reads: the shape of what `loss` is given to `read`; None if it encodes the features of level 0 itself.
        Raises:
            ConfigurationError: if it cannot encode for itself what it is to `read`.
        """

    @abstractmethod
    def grow(self, num_classes: int) -> None:
        """Adds what `num_classes` new classes need."""

    @abstractmethod
    def loss(
        self, features: Sequence[Tensor], targets: Tensor, stream: torch.Generator, read: Tensor | None = None
    ) -> Tensor:
        """What one step lowers: mean over the samples, [].

        Args:
            features: of each level [B, ...], shallowest first; no gradient goes into them.
            targets: what classes the samples are of.
            stream: for what is drawn.
            read: what stands for its own encoding of the samples [B, ...]; the gradient goes into it.
        """

    @abstractmethod
    def sample(self, targets: Tensor, levels: Sequence[int], stream: torch.Generator) -> list[Tensor]:
        """Draws one sample for each target, decoded down to the shallowest of `levels` and no further.

        Args:
            targets: what classes are wanted; one that knows no classes reads their number only.
            levels: of which features are wanted.
            stream: for what is drawn.
        Returns:
            The features of the same samples at each of `levels` [B, ...], in that order.
        """

    def log_likelihood(
        self, features: Tensor, targets: Tensor | None, stream: torch.Generator, draws: int = 64
    ) -> Tensor:
        """The logarithm of the density of features of level 0, in nats: [B].

        Args:
            features: [B, ...].
            targets: what classes the samples are of; None where that is not known, and each is as likely.
            stream: for what is drawn.
            draws: for each sample, where it is an estimate.
        Raises:
            ConfigurationError: if it has none.
        """
        raise ConfigurationError(
            f"the generator {type(self).__name__} has no likelihood; take one that has, such as VAE"
        )


def over_classes(of_class: Callable[[Tensor], Tensor], features: Tensor, classes: int) -> Tensor:
    """The logarithm of the mean of a density over all classes: [B].

    Args:
        of_class: the logarithm [B] of the density of `features` for targets, int64 [B].
        features: [B, ...].
        classes: C, at least 1.
    """
    numbers = torch.arange(classes, device=features.device)
    logs = [of_class(number.expand(len(features))) for number in numbers]
    return torch.stack(logs).logsumexp(0) - math.log(classes)


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Targets as the probability of each class, float [B, classes]; zero for classes that they do not name."""
    if targets.is_floating_point():
        return F.pad(targets.float(), (0, classes - targets.shape[1]))
    # Without `one_hot`, which asks the device for the largest class.
    return (targets[:, None] == torch.arange(classes, device=targets.device)).float()
