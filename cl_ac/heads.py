"""What an exit is made of: a pooling of its feature map and one linear classifier that grows with the classes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.state import Growing


class GrowingLinear(Growing):
    """A linear classifier that gains rows for new classes.

    The rows of the newest task and those of all earlier tasks are two parameters, so that the earlier ones can be
    frozen exactly, weight decay and momentum included.

    Args:
        in_features: D.
    """

    def __init__(self, in_features: int):
        super().__init__()
        self.in_features = in_features
        self.old_weight, self.new_weight = (nn.Parameter(torch.empty(0, in_features)) for _ in range(2))
        self.old_bias, self.new_bias = (nn.Parameter(torch.empty(0)) for _ in range(2))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Adds rows for `num_classes` new classes, initialised as `torch.nn.Linear` does."""
        device = self.new_weight.device
        bound = 1 / math.sqrt(self.in_features)
        weight = torch.empty(num_classes, self.in_features).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(num_classes).uniform_(-bound, bound, generator=generator)
        self.old_weight = nn.Parameter(self.weight.detach())
        self.old_bias = nn.Parameter(self.bias.detach())
        self.new_weight, self.new_bias = nn.Parameter(weight.to(device)), nn.Parameter(bias.to(device))

    @property
    def weight(self) -> Tensor:
        """[C, D]."""
        return torch.cat([self.old_weight, self.new_weight])

    @property
    def bias(self) -> Tensor:
        """[C]."""
        return torch.cat([self.old_bias, self.new_bias])

    def train_old_classes(self, trained: bool) -> None:
        """Lets the rows of earlier tasks learn, or freezes them."""
        self.old_weight.requires_grad_(trained)
        self.old_bias.requires_grad_(trained)

    def forward(self, features: Tensor) -> Tensor:
        """[..., D] to [..., C]."""
        old = F.linear(features, self.old_weight, self.old_bias)
        return torch.cat([old, F.linear(features, self.new_weight, self.new_bias)], -1)


class LinearHead(nn.Module):
    """A classifier on a feature vector [B, D]: the final exit of every network."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.linear = GrowingLinear(math.prod(shape))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        self.linear.grow(num_classes, generator)

    def train_old_classes(self, trained: bool) -> None:
        self.linear.train_old_classes(trained)

    def features(self, hidden: Tensor) -> Tensor:
        """The vector that the classifier reads: [B, D]."""
        return hidden.flatten(1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(self.features(hidden))


class TokenHead(LinearHead):
    """A classifier on the first (class) token of [B, tokens, D], after layer normalisation.

    The normalisation has no scale and shift of its own: the linear layer of each class can absorb them.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__(shape[-1:])

    def features(self, hidden: Tensor) -> Tensor:
        token = hidden[:, 0]
        return F.layer_norm(token, token.shape[-1:])


class PooledHead(Growing):
    """A classifier on a feature map, reduced by a learned mix of max and average pooling (Kaya et al., 2019, SDN).

    `W (a · max(x) + (1 − a) · avg(x)) + b` with one mix `a` per task. Both poolings are computed once for all tasks,
    and the mix is applied to the logits, where it is the same by linearity.

    Args:
        shape: channels, height and width of the feature map.
        pool: factor by which each side shrinks.
    """

    def __init__(self, shape: Sequence[int], pool: int = 2):
        super().__init__()
        channels, height, width = shape
        self.pool = pool
        self.size = (-(-height // pool), -(-width // pool))
        self.divides = height % pool == 0 and width % pool == 0
        self.linear = GrowingLinear(channels * self.size[0] * self.size[1])
        self.old_mix, self.new_mix = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0))
        self.register_buffer("task_of_class", torch.empty(0, dtype=torch.int64))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        device = self.new_mix.device
        self.linear.grow(num_classes, generator)
        self.old_mix = nn.Parameter(torch.cat([self.old_mix, self.new_mix]).detach())
        self.new_mix = nn.Parameter(torch.rand(1, generator=generator).to(device))
        newest = torch.full((num_classes,), len(self.old_mix), device=device)
        self.task_of_class = torch.cat([self.task_of_class, newest])

    def train_old_classes(self, trained: bool) -> None:
        self.linear.train_old_classes(trained)
        self.old_mix.requires_grad_(trained)

    def pooled(self, hidden: Tensor) -> Tensor:
        """Max-pooled and average-pooled maps, flattened: [2, B, D]."""
        if self.size == tuple(hidden.shape[-2:]):
            maximum, average = hidden, hidden
        elif self.divides:
            maximum, average = F.max_pool2d(hidden, self.pool), F.avg_pool2d(hidden, self.pool)
        else:
            maximum = F.adaptive_max_pool2d(hidden, self.size)
            average = F.adaptive_avg_pool2d(hidden, self.size)
        return torch.stack([maximum.flatten(1), average.flatten(1)])

    def features(self, hidden: Tensor) -> Tensor:
        """The vector [B, D] that the newest task's classifier reads."""
        maximum, average = self.pooled(hidden)
        return torch.lerp(average, maximum, self.new_mix)

    def forward(self, hidden: Tensor) -> Tensor:
        maximum, average = self.linear(self.pooled(hidden))
        mix = torch.cat([self.old_mix, self.new_mix])[self.task_of_class]
        return torch.lerp(average, maximum, mix.to(average.dtype))
