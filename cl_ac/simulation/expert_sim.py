"""The mixture of generative experts as a model: settings, networks, and simulation with one expert for each sample."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.generators.routing import Gate, Gates, Router, gates, gumbel
from cl_ac.simulation.networks import Discriminator, Generator, PositionRegressor


@dataclass(frozen=True)
class Experts:
    """How the experts of a mixture are built, and who chooses among them.

    Args:
        gate: `learned`, by which the router learns what each expert would lose with each sample; or `published`, that
            of the public code, which passes no loss of an expert to the router and stays noisy in simulation.
        noise: values that an expert draws for each image (Z).
        generator: widths of a generator's hidden layers.
        discriminator: width of a discriminator's hidden layer.
        features: of discriminators and of the auxiliary regressor.
    """

    gate: Gate = "learned"
    noise: int = 10
    generator: tuple[int, int] = (64, 64)
    discriminator: int = 128
    features: int = 64

    def __post_init__(self) -> None:
        if self.gate not in get_args(Gate):
            raise ConfigurationError(unknown("model.gate", self.gate, get_args(Gate)))
        sizes = (self.noise, *self.generator, self.discriminator, self.features)
        if min(sizes) < 1:
            raise ConfigurationError(
                f"the sizes in model are {', '.join(map(str, sizes))}; each of noise, generator, discriminator and "
                "features must be at least 1"
            )


class ExpertSim(nn.Module):
    """A mixture of generative adversarial experts behind a router (ExpertSim).

    Experts share no weights but those of the auxiliary regressor. (In the public code one generator and one
    discriminator are repeated by reference, so that all experts are the same.)

    Args:
        experts: how many (E), at least 1.
        settings: how they are built.
        conditions: [N, C] of the training data, whose mean and deviation the networks' inputs are scaled by.
        shape: H and W of the images.
        seed: of the initial weights; an expert's do not depend on how many there are.
    """

    def __init__(self, experts: int, settings: Experts, conditions: Tensor, shape: tuple[int, int], seed: int):
        super().__init__()
        if experts < 1:
            raise ConfigurationError(f"experts is {experts}; it must be at least 1")
        count, self.settings = conditions.shape[1], settings
        self.register_buffer("mean", conditions.mean(0))
        self.register_buffer("deviation", conditions.std(0).clamp(min=1e-6))
        self.generators, self.discriminators = nn.ModuleList(), nn.ModuleList()
        for expert in range(experts):
            with global_stream(seed, "expert", expert):
                self.generators.append(Generator(settings.noise, count, shape, settings.generator))
                critic = Discriminator(count, shape, settings.discriminator, settings.features)
                self.discriminators.append(critic)
        with global_stream(seed, "router"):
            self.router = Router(count, experts)
        with global_stream(seed, "position"):
            self.regressor = PositionRegressor(shape, settings.discriminator, settings.features)

    def __len__(self) -> int:
        """Experts (E)."""
        return len(self.generators)

    def scaled(self, conditions: Tensor) -> Tensor:
        """Conditions [N, C] as the networks take them."""
        return (conditions - self.mean) / self.deviation

    def route(self, scaled: Tensor, noise: Tensor | None = None) -> Gates:
        """The gates for scaled conditions [N, C], with Gumbel noise [N, E] or without."""
        return gates(self.router(scaled), noise, self.settings.gate)

    @torch.no_grad()
    def simulate(self, conditions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images of showers at `conditions` [N, C], each made by the one expert that it is routed to.

        Args:
            generator: of the noise, of the CPU.

        Returns:
            photons in each cell, [N, H, W], and the expert of each image, int64 [N].
        """
        scaled = self.scaled(conditions)
        chosen = self.route(scaled, self.routing_noise(len(scaled), generator)).chosen
        noise = torch.randn(len(scaled), self.settings.noise, generator=generator).to(scaled)
        order = chosen.argsort(stable=True)
        sizes = torch.bincount(chosen, minlength=len(self)).tolist()
        parts = zip(self.generators, noise[order].split(sizes), scaled[order].split(sizes), strict=True)
        images = torch.cat([expert(*given) for expert, *given in parts])
        return images.expm1()[order.argsort()], chosen

    def routing_noise(self, count: int, generator: torch.Generator) -> Tensor | None:
        """Gumbel noise in simulation, which the published gate has and the learned one has not."""
        return gumbel((count, len(self)), generator) if self.settings.gate == "published" else None
