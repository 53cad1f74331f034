"""Training of a mixture of generative adversarial experts, an epoch at a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.generators.routing import (
    Gates,
    differentiation,
    distribution,
    expected_loss,
    gumbel,
    load_balance,
    utilisation,
)
from cl_ac.simulation.calorimeter import Showers
from cl_ac.simulation.expert_sim import ExpertSim
from cl_ac.simulation.losses import brightest, diversity, fake_loss, intensity, position, real_loss

# Usual for adversaries; with Adam's own they circle each other here.
BETAS = (0.5, 0.9)


@dataclass(frozen=True)
class Weights:
    """What each term counts.

    Args:
        diversity: of the experts' selective diversity.
        intensity: of the difference of photon sums.
        position: of the place that the auxiliary regressor finds in a made image.
        experts: of what the experts lose, for the router.
        differentiation: of how alike the experts' images are.
        balance: of the adaptive load balance.
        utilisation: of how far the mean gate is from even; the public code leaves it out.
        distribution: of samples of different intensity that share experts; the public code leaves it out.
    """

    diversity: float = 0.1
    intensity: float = 1e-3
    position: float = 1e-3
    experts: float = 0.1
    differentiation: float = 0.1
    balance: float = 1e-7
    utilisation: float = 1.0
    distribution: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ConfigurationError(f"weights.{name} is {value:g}; it must be at least 0")


@dataclass(frozen=True)
class Adversarial:
    """How long and how fast a mixture learns, with Adam; all rates fall to 0 along a cosine.

    Args:
        epochs: passes over the showers.
        batch_size: showers of a step.
        generator_lr: of generators; times the share of the batch that an expert is chosen for.
        discriminator_lr: likewise.
        regressor_lr: of the auxiliary regressor.
        router_lr: of the router.
        blur: deviation of the noise that is added to every image that a discriminator sees, in units of log(1 +
            photons). The paper has none; without it a discriminator tells real showers by their whole numbers of
            photons, and experts that see few showers do not learn.
    """

    epochs: int = 9
    batch_size: int = 128
    generator_lr: float = 9e-3
    discriminator_lr: float = 9e-3
    regressor_lr: float = 1e-3
    router_lr: float = 1e-3
    blur: float = 0.3

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigurationError(
                f"training.epochs is {self.epochs} and training.batch_size {self.batch_size}; the first must be at "
                "least 1, the second at least 2"
            )
        for name, value in vars(self).items():
            if name.endswith("lr") and not 0 < value < float("inf"):
                raise ConfigurationError(f"training.{name} is {value:g}; it must be above 0")
        if not 0 <= self.blur < float("inf"):
            raise ConfigurationError(f"training.blur is {self.blur:g}; it must be at least 0")


@dataclass(frozen=True)
class ShowerBatch:
    """Some showers as a step needs them.

    Args:
        conditions: scaled, [B, C].
        images: log(1 + photons), [B, H, W].
        photons: [B].
        place: of the brightest cell, [B, 2].
        spread: [B].
        blur: what is added to a real and two made images before a discriminator sees them, [B, 3, H, W].
    """

    conditions: Tensor
    images: Tensor
    photons: Tensor
    place: Tensor
    spread: Tensor
    blur: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> "ShowerBatch":
        """Some of the showers."""
        return ShowerBatch(*(value[indices] for value in vars(self).values()))


class Learner:
    """Trains a model on showers; what it draws depends on the seed and the epoch alone.

    Args:
        model: trained in place.
        showers: to train on.
        settings: how long and how fast.
        weights: what each term counts.
        seed: of the order of showers and of all noise.
    """

    def __init__(self, model: ExpertSim, showers: Showers, settings: Adversarial, weights: Weights, seed: int):
        self.model, self.settings, self.weights, self.seed = model, settings, weights, seed
        images = showers.images.log1p()
        self.data = ShowerBatch(
            model.scaled(showers.conditions),
            images,
            showers.images.sum((1, 2)),
            brightest(images),
            showers.spread,
            images.new_zeros(()).expand(len(images), 3, *images.shape[1:]),
        )

        def of_experts(networks: nn.ModuleList) -> Optimizer:
            return Adam([{"params": list(each.parameters())} for each in networks], betas=BETAS, fused=True)

        self.optimizers: dict[str, Optimizer] = {
            "generator": of_experts(model.generators),
            "discriminator": of_experts(model.discriminators),
            "regressor": Adam(model.regressor.parameters(), fused=True),
            "router": Adam(model.router.parameters(), fused=True),
        }
        self.epoch = 0

    def train_epoch(self) -> dict[str, float]:
        """One pass over the showers; means of what each part lost, and of how the router used the experts.

        Raises:
            UserError: if the model has become no number.
        """
        draws = generator(self.seed, "simulation", self.epoch)
        order = torch.randperm(len(self.data), generator=draws)
        steps = [self.step(self.data.select(rows), draws) for rows in order.split(self.settings.batch_size)]
        self.epoch += 1
        means = {name: torch.stack([step[name] for step in steps]).mean().item() for name in steps[0]}
        if any(value != value for value in means.values()):
            raise UserError(
                f"the experts are no numbers any more after epoch {self.epoch}; lower training.generator_lr (now "
                f"{self.settings.generator_lr:g}) or training.discriminator_lr ({self.settings.discriminator_lr:g})"
            )
        return means

    def step(self, batch: ShowerBatch, draws: torch.Generator) -> dict[str, Tensor]:
        """One step of every part: discriminators, generators, the auxiliary regressor, and the router."""
        model, count = self.model, len(batch)
        noise = torch.randn(2, count, model.settings.noise, generator=draws)
        blur = self.settings.blur * torch.randn(batch.blur.shape, generator=draws)
        batch = replace(batch, blur=blur)
        gates = model.route(batch.conditions, gumbel((count, len(model)), draws))
        own = [torch.where(gates.chosen == expert)[0] for expert in range(len(model))]
        self._set_rates([len(rows) / count for rows in own])
        parts = [batch.select(rows) for rows in own]
        made = [
            self.made(expert, part, noise[:, rows]) for expert, (part, rows) in enumerate(zip(parts, own, strict=True))
        ]
        used = [expert for expert, rows in enumerate(own) if len(rows)]
        told = {}
        losses = [self.discriminator_losses(expert, parts[expert], made[expert].detach()).mean() for expert in used]
        told["discriminator"] = self._descend("discriminator", losses)
        losses = [
            self.generator_losses(expert, parts[expert], made[expert], noise[:, own[expert]]).mean() for expert in used
        ]
        told["generator"] = self._descend("generator", losses)
        told["regressor"] = self._descend("regressor", [position(model.regressor(batch.images)[1], batch.place).mean()])
        told["router"] = self._descend("router", [self.router_loss(gates, batch, noise)])
        return told | {f"usage {expert}": share for expert, share in enumerate(gates.usage)}

    def made(self, expert: int, batch: ShowerBatch, noise: Tensor) -> Tensor:
        """The images that an expert makes of two draws of noise [2, B, Z]: [2, B, H, W]."""
        images = self.model.generators[expert](noise.flatten(0, 1), batch.conditions.repeat(2, 1))
        return images.unflatten(0, (2, -1))

    def discriminator_losses(self, expert: int, batch: ShowerBatch, made: Tensor) -> Tensor:
        """What a discriminator loses with each real shower and the first one made in its place [2, B, H, W]: [B]."""
        critic = self.model.discriminators[expert]
        _, logits = critic(
            torch.cat([batch.images + batch.blur[:, 0], made[0] + batch.blur[:, 1]]), batch.conditions.repeat(2, 1)
        )
        return real_loss(logits[: len(batch)]) + fake_loss(logits[len(batch) :])

    def generator_losses(self, expert: int, batch: ShowerBatch, made: Tensor, noise: Tensor) -> Tensor:
        """What a generator loses with each shower, all terms: [B].

        Args:
            made: with both draws of noise, [2, B, H, W].
            noise: [2, B, Z].
        """
        model, weights = self.model, self.weights
        seen = (made + batch.blur[:, 1:].transpose(0, 1)).flatten(0, 1)
        features, logits = model.discriminators[expert](seen, batch.conditions.repeat(2, 1))
        return (
            real_loss(logits[: len(batch)])
            + diversity(features.unflatten(0, (2, -1)), noise, batch.spread, weights.diversity)
            + weights.intensity * intensity(made[0], batch.photons)
            + weights.position * position(model.regressor(made[0])[1], batch.place)
        )

    def router_loss(self, gates: Gates, batch: ShowerBatch, noise: Tensor) -> Tensor:
        """What the router loses with its gates: a scalar."""
        model, weights = self.model, self.weights
        with torch.no_grad():
            losses, features = [], []
            for expert in range(len(model)):
                made = self.made(expert, batch, noise)
                own = self.generator_losses(expert, batch, made, noise)
                losses.append(own + self.discriminator_losses(expert, batch, made))
                features.append(model.regressor(made[0])[0])
        gate = model.settings.gate
        return (
            weights.experts * expected_loss(gates, torch.stack(losses, 1), gate)
            + weights.differentiation * differentiation(gates, torch.stack(features, 1), gate)
            + weights.balance * load_balance(gates)
            + weights.utilisation * utilisation(gates)
            + weights.distribution * distribution(gates, batch.photons.log1p())
        )

    def _set_rates(self, shares: list[float]) -> None:
        """Sets what the next steps learn by: cosines down to 0, and of an expert by its share of the batch."""
        settings = self.settings
        decay = 0.5 * (1 + math.cos(math.pi * self.epoch / settings.epochs))
        for name, optimizer in self.optimizers.items():
            rate = decay * getattr(settings, f"{name}_lr")
            for expert, group in enumerate(optimizer.param_groups):
                group["lr"] = rate * shares[expert] if name in ("generator", "discriminator") else rate

    def _descend(self, name: str, losses: list[Tensor]) -> Tensor:
        """One step of one part down the sum of losses; other parts that they run through get no gradient."""
        parameters = [each for group in self.optimizers[name].param_groups for each in group["params"]]
        gradients = torch.autograd.grad(torch.stack(losses).sum(), parameters, allow_unused=True)
        for each, gradient in zip(parameters, gradients, strict=True):
            each.grad = gradient
        self.optimizers[name].step()
        return torch.stack(losses).mean().detach()

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"epoch": self.epoch, "model": self.model.state_dict(), "optimizers": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self.model.load_state_dict(state["model"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.epoch = state["epoch"]
