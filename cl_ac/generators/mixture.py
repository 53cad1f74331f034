"""A mixture of one normal distribution for each class.

Shapes: B batch, C classes, Z latent values.
"""

import math

import torch
from torch import Tensor, nn

from cl_ac.data.growing import Growing
from cl_ac.generators.generator import class_weights


class ClassMixture(Growing):
    """A normal distribution with independent axes for each class, whose means and variances are learned.

    Args:
        latent: Z.
    """

    def __init__(self, latent: int):
        super().__init__()
        self.means = nn.Parameter(torch.empty(0, latent))
        self.log_variances = nn.Parameter(torch.empty(0, latent))

    def __len__(self) -> int:
        return len(self.means)

    def grow(self, num_classes: int) -> None:
        """Adds classes, with variance 1 and means from torch's global stream."""
        latent, device = self.means.shape[1], self.means.device
        new = torch.randn(num_classes, latent).to(device)
        self.means = nn.Parameter(torch.cat([self.means.detach(), new]))
        self.log_variances = nn.Parameter(torch.cat([self.log_variances.detach(), torch.zeros_like(new)]))

    def log_density(self, values: Tensor, targets: Tensor) -> Tensor:
        """`log Σ_c w_c N(z; μ_c, σ_c²)` of values [..., B, Z], w or c as `targets`: [..., B]."""
        if not targets.is_floating_point():
            return log_normal(values, self.means[targets], self.log_variances[targets])
        of_each = log_normal(values[..., None, :], self.means, self.log_variances)
        # Finite, so that a class of weight 0 has a gradient of 0.
        logs = class_weights(targets, len(self)).clamp(min=torch.finfo(torch.float32).tiny).log()
        return (logs + of_each).logsumexp(-1)

    def draw(self, targets: Tensor, stream: torch.Generator) -> Tensor:
        """One value for each target: [B, Z]."""
        device = self.means.device
        chance, noise = torch.rand(len(targets), 1, generator=stream), standard_normal(len(targets), self, stream)
        if targets.is_floating_point():
            weights = class_weights(targets, len(self))
            below = weights.cumsum(-1) / weights.sum(-1, keepdim=True) <= chance.to(device, non_blocking=True)
            targets = below.sum(-1).clamp(max=len(self) - 1)
        return self.means[targets] + (0.5 * self.log_variances[targets]).exp() * noise


class StandardNormal(nn.Module):
    """The prior of a generator that knows no classes.

    Args:
        latent: Z.
    """

    means: Tensor

    def __init__(self, latent: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(1, latent), persistent=False)

    def grow(self, num_classes: int) -> None:
        """Does nothing: there are no classes."""

    def log_density(self, values: Tensor, targets: Tensor) -> Tensor:
        """`log N(z; 0, 1)` of values [..., B, Z]: [..., B]."""
        return log_normal(values, self.means, self.means)

    def draw(self, targets: Tensor, stream: torch.Generator) -> Tensor:
        """One value for each target: [B, Z]."""
        return standard_normal(len(targets), self, stream)


def standard_normal(count: int, prior: ClassMixture | StandardNormal, stream: torch.Generator) -> Tensor:
    """Values [count, Z] for a prior's own to be made of, drawn on the CPU."""
    return torch.randn(count, prior.means.shape[1], generator=stream).to(prior.means.device, non_blocking=True)


def log_normal(values: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    """The logarithm of the density of a normal distribution with independent axes, summed over the last axis."""
    squares = (values - means).square() * (-log_variances).exp()
    return -0.5 * (squares + log_variances + math.log(2 * math.pi)).sum(-1)
