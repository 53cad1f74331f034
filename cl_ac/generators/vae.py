"""A variational autoencoder of images or features, with one mode of the latent values for each class.

Shapes: B batch, C classes seen so far, L levels, K draws, Z latent values.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError
from cl_ac.generators.gates import ClassGates
from cl_ac.generators.generator import Generator, over_classes
from cl_ac.generators.mixture import ClassMixture, StandardNormal, log_normal

# Of the running variance of features, one step of training.
MOMENTUM = 0.05


class VAE(Generator):
    """Conditional variational autoencoder (Kingma & Welling, 2014; the prior and gates of van de Ven et al., 2020).

    Encoder and decoder are fully connected. `loss` is the negative evidence lower bound divided by the number of
    features at level 0: half the squared error of each level, mean over its features, divided by the variance of the
    level's features (a running mean over steps), plus `noise` times the divergence `log q(z|x) − log p(z|y)` of one
    draw. Without `standardise`, and with `noise` the number of features at level 0 over that of an image's values,
    it is the loss of the published code, term by term.

    The log-likelihood is of level 0, estimated by importance sampling from the encoder: with one draw its mean is the
    evidence lower bound, with more it is closer to the likelihood, from below in the mean. Where targets are not known,
    it is that of an even mixture of all classes, which with `gates` takes one pass for each.

    Args:
        latent: Z.
        width: of hidden layers.
        layers: hidden layers of the encoder, and of the decoder down to level 0; of each deeper level it has at most as
            many as there are levels from the deepest one on.
        conditional: whether each class has a mode of its own, with learned mean and variance, and the sampled class
            counts; else latent values are standard normal.
        gates: share of the decoder's hidden units that each class of a conditional one switches off, always the same
            ones, drawn at random; 0 for none.
        noise: variance that the decoder may leave unexplained, as a share of that of the features. Less makes samples
            sharper, and the divergence count less.
        standardise: whether errors are relative to the variance of each level's features; else that is taken for 1.
    """

    variances: Tensor
    steps: Tensor

    def __init__(
        self,
        latent: int = 32,
        width: int = 256,
        layers: int = 2,
        conditional: bool = True,
        gates: float = 0.5,
        noise: float = 1.0,
        standardise: bool = True,
    ):
        super().__init__()
        for name, value in (("latent", latent), ("width", width), ("layers", layers)):
            if value < 1:
                raise ConfigurationError(f"VAE.{name} is {value}; it must be at least 1")
        if not 0 <= gates < 1 or noise <= 0:
            raise ConfigurationError(
                f"VAE.gates is {gates:g} and VAE.noise {noise:g}; the first must be at least 0 and below 1, the second "
                "above 0"
            )
        self.latent, self.width, self.layers, self.noise = latent, width, layers, noise
        self.standardise = standardise
        self.prior = ClassMixture(latent) if conditional else StandardNormal(latent)
        self.gates = gates if conditional else 0.0
        self.shapes: list[tuple[int, ...]] = []

    def build(self, shapes: Sequence[Sequence[int]], reads: Sequence[int] | None = None) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        sizes, width = [math.prod(shape) for shape in self.shapes], self.width
        encoded = sizes[0] if reads is None else math.prod(reads)
        hidden = [encoded, *[width] * self.layers] if reads is None else [encoded]
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(hidden)]
        self.encoder = nn.Sequential(nn.Flatten(), *layers)
        self.posterior = nn.Linear(hidden[-1], 2 * self.latent)
        # How many hidden layers lead to each level.
        self.depths = [max(self.layers, len(sizes)), *range(len(sizes) - 1, 0, -1)]
        inputs = [self.latent, *[width] * (self.depths[0] - 1)]
        self.decoder = nn.ModuleList(nn.Linear(size, width) for size in inputs)
        self.class_gates = ClassGates(self.depths[0], width, self.gates)
        self.outputs = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.register_buffer("variances", torch.zeros(len(sizes)))
        self.register_buffer("steps", torch.zeros(()))

    def grow(self, num_classes: int) -> None:
        self.prior.grow(num_classes)
        self.class_gates.grow(num_classes)

    def encode(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latent values, [B, Z] each."""
        mean, log_variance = self.posterior(self.encoder(read)).chunk(2, -1)
        return mean, log_variance

    def decode(self, values: Tensor, targets: Tensor, levels: Sequence[int]) -> list[Tensor]:
        """The features [B, ...] of each of `levels` that latent values [B, Z] stand for; no layer more is run."""
        hidden, reached = values, {}
        for depth, layer in enumerate(self.decoder[: max(self.depths[level] for level in levels)], 1):
            hidden = self.class_gates(layer(hidden).relu(), targets, depth - 1)
            reached[depth] = hidden
        decoded = (self.outputs[level](reached[self.depths[level]]) for level in levels)
        return [value.unflatten(-1, self.shapes[level]) for value, level in zip(decoded, levels, strict=True)]

    def loss(
        self, features: Sequence[Tensor], targets: Tensor, stream: torch.Generator, read: Tensor | None = None
    ) -> Tensor:
        return self.losses(features, targets, stream, read).mean()

    def losses(
        self, features: Sequence[Tensor], targets: Tensor, stream: torch.Generator, read: Tensor | None = None
    ) -> Tensor:
        """What `loss` is the mean of: the value of each sample, [B]."""
        # In float32 under autocast too: squares of small errors vanish in half precision.
        with torch.autocast(features[0].device.type, enabled=False):
            features = [value.detach().float() for value in features]
            mean, log_variance = self.encode(features[0] if read is None else read.float())
            drawn = torch.randn(mean.shape, generator=stream).to(mean.device, non_blocking=True)
            values = mean + (0.5 * log_variance).exp() * drawn
            variances = self._seen(features)
            decoded = self.decode(values, targets, range(len(features)))
            errors = [0.5 * (a - b).square().flatten(1).mean(1) for a, b in zip(features, decoded, strict=True)]
            excess = log_normal(values, mean, log_variance) - self.prior.log_density(values, targets)
            return (torch.stack(errors, 1) / variances).sum(1) + self.noise * excess / features[0][0].numel()

    @torch.no_grad()
    def _seen(self, features: Sequence[Tensor]) -> Tensor:
        """The variance of each level's features [L], as far as it is known by now."""
        if not self.standardise:
            return torch.ones_like(self.variances)
        present = torch.stack([value.var(correction=0) for value in features])
        # One batch that overflows must not spoil all later ones.
        present = present.where(present.isfinite(), self.variances)
        self.steps += 1
        # The mean of the first steps, a running mean from then on.
        self.variances += (present - self.variances) * (1 / self.steps).clamp(min=MOMENTUM)
        return self.variances.clamp(min=1e-12)

    @torch.no_grad()
    def sample(self, targets: Tensor, levels: Sequence[int], stream: torch.Generator) -> list[Tensor]:
        with torch.autocast(targets.device.type, enabled=False):
            return self.decode(self.prior.draw(targets, stream), targets, levels)

    @torch.no_grad()
    def log_likelihood(
        self, features: Tensor, targets: Tensor | None, stream: torch.Generator, draws: int = 64
    ) -> Tensor:
        if targets is None and self.gates:
            # A decoder of its own for each class: half-open gates are those of no sample that may be drawn.
            return over_classes(
                lambda each: self.log_likelihood(features, each, stream, draws), features, len(self.class_gates)
            )
        features = features.float()
        mean, log_variance = self.encode(features)
        if targets is None:
            classes = max(len(self.class_gates), 1)
            targets = torch.full((len(features), classes), 1 / classes, device=features.device)
        drawn = torch.randn(draws, *mean.shape, generator=stream).to(mean.device, non_blocking=True)
        values = mean + (0.5 * log_variance).exp() * drawn
        (decoded,) = self.decode(values.flatten(0, 1), targets.repeat(draws, *[1] * (targets.ndim - 1)), [0])
        variance = self.noise * (self.variances[0].clamp(min=1e-12) if self.standardise else 1.0)
        errors = (decoded.unflatten(0, (draws, -1)) - features).square().flatten(2)
        of_features = -0.5 * (errors / variance + math.log(2 * math.pi) + torch.as_tensor(variance).log()).sum(-1)
        logs = of_features + self.prior.log_density(values, targets) - log_normal(values, mean, log_variance)
        return logs.logsumexp(0) - math.log(draws)
