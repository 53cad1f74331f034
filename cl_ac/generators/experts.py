"""A mixture of variational autoencoders, each of which makes a region of the data.

Shapes: B batch, C classes seen so far, E experts, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError
from cl_ac.generators.generator import Generator, class_weights, over_classes
from cl_ac.generators.routing import Gates, utilisation
from cl_ac.generators.vae import VAE


class MixtureOfExperts(Generator):
    """A mixture of generative experts as a generator for replay: `p(x|y) = Σ_e π(e|y) p_e(x|y)`, each expert a `VAE`.

    The router is a row of logits for each class, from which an expert is drawn for each sample that is asked for. It
    learns by the likelihood: the loss is `−log Σ_e π(e|y) exp(−ℓ_e)` with the negative evidence lower bounds ℓ_e of
    the experts in nats, divided as `VAE` divides its own. So each expert learns most from the samples that it explains
    best, and the router to ask it for their classes. `utilisation` times what the experts' mean share of the samples
    lacks of the largest entropy is added, in nats.

    All experts make every sample that is asked for, of which one is taken: nothing waits for the device, and drawing
    costs as much as from E generators.

    Args:
        experts: E.
        utilisation: weight of an even use of the experts.
        latent: latent values of each expert.
        width: of its hidden layers.
        layers: hidden layers of its encoder and of its decoder.
        conditional: whether each class has a mode of its own in each expert.
        noise: variance that a decoder may leave unexplained, as a share of that of the features.
    """

    def __init__(
        self,
        experts: int = 3,
        utilisation: float = 0.1,
        latent: int = 32,
        width: int = 128,
        layers: int = 2,
        conditional: bool = True,
        noise: float = 1.0,
    ):
        super().__init__()
        if experts < 1:
            raise ConfigurationError(f"MixtureOfExperts.experts is {experts}; it must be at least 1")
        if utilisation < 0:
            raise ConfigurationError(f"MixtureOfExperts.utilisation is {utilisation:g}; it must be at least 0")
        self.utilisation, self.noise = utilisation, noise
        self.experts = nn.ModuleList(
            VAE(latent, width, layers, conditional=conditional, noise=noise) for _ in range(experts)
        )
        self.router = nn.Parameter(torch.empty(0, experts))

    def build(self, shapes: Sequence[Sequence[int]], reads: Sequence[int] | None = None) -> None:
        for expert in self.experts:
            expert.build(shapes, reads)

    def grow(self, num_classes: int) -> None:
        for expert in self.experts:
            expert.grow(num_classes)
        new = torch.zeros(num_classes, len(self.experts), device=self.router.device)
        self.router = nn.Parameter(torch.cat([self.router.detach(), new]))

    def routed(self, targets: Tensor) -> Tensor:
        """The probability `π(e|y)` of each expert for targets: [B, E]."""
        return class_weights(targets, len(self.router)) @ self.router.softmax(-1)

    def loss(
        self, features: Sequence[Tensor], targets: Tensor, stream: torch.Generator, read: Tensor | None = None
    ) -> Tensor:
        nats = features[0][0].numel() / self.noise
        bounds = [nats * expert.losses(features, targets, stream, read) for expert in self.experts]
        # Finite where an expert is never asked for.
        logs = self.routed(targets).clamp(min=1e-30).log() - torch.stack(bounds, 1)
        responsible = logs.softmax(-1)
        uneven = utilisation(Gates(responsible, responsible.argmax(-1)))
        return (self.utilisation * uneven - logs.logsumexp(-1).mean()) / nats

    @torch.no_grad()
    def sample(self, targets: Tensor, levels: Sequence[int], stream: torch.Generator) -> list[Tensor]:
        chance = torch.rand(len(targets), 1, generator=stream).to(targets.device, non_blocking=True)
        below = self.routed(targets).cumsum(-1) <= chance
        chosen = below.sum(-1).clamp(max=len(self.experts) - 1)
        drawn = [expert.sample(targets, levels, stream) for expert in self.experts]
        rows = torch.arange(len(targets), device=targets.device)
        return [torch.stack(of_level)[chosen, rows] for of_level in zip(*drawn, strict=True)]

    @torch.no_grad()
    def log_likelihood(
        self, features: Tensor, targets: Tensor | None, stream: torch.Generator, draws: int = 64
    ) -> Tensor:
        if targets is None:
            # Which expert is asked depends on the class.
            return over_classes(
                lambda each: self.log_likelihood(features, each, stream, draws), features, len(self.router)
            )
        each = [expert.log_likelihood(features, targets, stream, draws) for expert in self.experts]
        return (self.routed(targets).clamp(min=1e-30).log() + torch.stack(each, 1)).logsumexp(-1)
