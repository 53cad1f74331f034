"""How good, how even and how fast a mixture of experts simulates, on conditions that it was not trained on.

Legend: N showers, E experts, R regimes, K channels.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cl_ac.data.seeding import generator, key
from cl_ac.simulation.calorimeter import REGIMES, Calorimeter, Showers, regimes_of
from cl_ac.simulation.expert_sim import ExpertSim
from cl_ac.simulation.readout import channel_sums, wasserstein

REPEATS = 5


@dataclass(frozen=True)
class Measured:
    """What a mixture came to. Distances are in photons: 1-Wasserstein, mean over channels where they are one number.

    Args:
        experts: E.
        widened: how many times wider than set the networks of its experts are.
        seed: of the showers and the training.
        parameters: of generators and router, which simulation needs.
        distance: between held-out and simulated showers.
        channels: the same of each channel, [K].
        regimes: the same of the showers of each regime alone, by name.
        of_experts: the same of the showers that each expert makes, [E]; None where it makes none.
        again: between held-out showers and those of a Monte-Carlo that runs again at their conditions, the least that
            can be expected.
        error: absolute difference of a simulated shower's channel and that of the held-out one, mean.
        error_again: the same of a Monte-Carlo that runs again.
        usage: share of the held-out showers that each expert makes, [E].
        usage_of_regimes: the same of the showers of each regime, [R][E].
        microseconds: of one core or GPU for an image.
        monte_carlo_microseconds: of the Monte-Carlo for an image.
        seconds: of training.
    """

    experts: int
    widened: int
    seed: int
    parameters: int
    distance: float
    channels: list[float]
    regimes: dict[str, float]
    of_experts: list[float | None]
    again: float
    error: float
    error_again: float
    usage: list[float]
    usage_of_regimes: list[list[float]]
    microseconds: float
    monte_carlo_microseconds: float
    seconds: float

    @property
    def effective_experts(self) -> float:
        """How many experts would be used as unevenly if all that are used were used evenly: exp of the entropy."""
        usage = torch.tensor(self.usage, dtype=torch.float64)
        return torch.special.entr(usage).sum().exp().item()


def measure(
    model: ExpertSim, calorimeter: Calorimeter, test: Showers, seed: int, widened: int, seconds: float
) -> Measured:
    """What a trained model comes to on held-out showers.

    Args:
        widened: how many times wider than set its networks are.
        seconds: that its training took.
    """
    images, chosen = model.simulate(test.conditions, generator(seed, "simulate"))
    again = calorimeter.simulate(test.conditions, np.random.default_rng(key(seed, "calorimeter again")))
    real, made, repeated = (channel_sums(each) for each in (test.images, images, again))
    regimes, everyone = regimes_of(test.conditions), range(len(model))

    def distance(of: Tensor, rows: Tensor) -> float:
        return wasserstein(real[rows], of[rows]).mean().item()

    def usage(rows: Tensor) -> list[float]:
        return (torch.bincount(chosen[rows], minlength=len(model)).double() / rows.sum().clamp(min=1)).tolist()

    every = torch.ones(len(test), dtype=torch.bool)
    of_regimes = {regime.name: regimes == place for place, regime in enumerate(REGIMES)}
    fast, slow = timed(model, calorimeter, test.conditions, seed)
    used = [model.router, *model.generators]
    return Measured(
        experts=len(model),
        widened=widened,
        seed=seed,
        parameters=sum(each.numel() for module in used for each in module.parameters()),
        distance=distance(made, every),
        channels=wasserstein(real, made).tolist(),
        regimes={name: distance(made, rows) for name, rows in of_regimes.items() if rows.any()},
        of_experts=[distance(made, chosen == each) if (chosen == each).any() else None for each in everyone],
        again=distance(repeated, every),
        error=(made - real).abs().mean().item(),
        error_again=(repeated - real).abs().mean().item(),
        usage=usage(every),
        usage_of_regimes=[usage(rows) for rows in of_regimes.values()],
        microseconds=fast,
        monte_carlo_microseconds=slow,
        seconds=seconds,
    )


def timed(model: ExpertSim, calorimeter: Calorimeter, conditions: Tensor, seed: int) -> tuple[float, float]:
    """Microseconds for an image, of the model and of the Monte-Carlo: medians of runs that take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        begun = time.perf_counter()
        model.simulate(conditions, generator(seed, "timing"))
        between = time.perf_counter()
        calorimeter.simulate(conditions, np.random.default_rng(seed))
        seconds[0].append(between - begun)
        seconds[1].append(time.perf_counter() - between)
    fast, slow = (1e6 * statistics.median(each) / len(conditions) for each in seconds)
    return fast, slow
