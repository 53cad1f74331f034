"""A synthetic calorimeter: a Monte-Carlo of photons, whose showers are of three regimes.

It has what makes the detector of the ExpertSim paper hard to learn (sums of light that differ by orders of magnitude,
wide and narrow showers, spread at equal conditions) and no more of its physics than that.

Legend: N showers, C values of a condition, H × W cells.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cl_ac.data.seeding import key
from cl_ac.errors import ConfigurationError, DataError

CONDITIONS = ("energy", "row", "column", "mass", "charge")
# Showers begin in the middle part of each side, so that some of their light is lost at the edges, but not most of it.
MIDDLE = (0.2, 0.8)


@dataclass(frozen=True)
class Regime:
    """How particles of one kind shower.

    Args:
        name: what their showers look like.
        mass: of the particle, as its condition says.
        charge: likewise; no two regimes share both.
        photons: expected number at energy 1.
        width: standard deviation of a photon's distance from the centre, in cells, along rows and columns.
        fluctuation: standard deviation of the factor, of mean 1, by which showers at equal conditions differ.
    """

    name: str
    mass: float
    charge: float
    photons: float
    width: float
    fluctuation: float


REGIMES = (
    Regime("narrow", mass=0.0, charge=0.0, photons=40.0, width=1.0, fluctuation=0.1),
    Regime("wide", mass=1.0, charge=0.0, photons=20.0, width=2.4, fluctuation=0.4),
    Regime("faint", mass=1.0, charge=1.0, photons=5.0, width=1.6, fluctuation=0.8),
)


@dataclass(frozen=True)
class Showers:
    """What a detector saw, and of what.

    Args:
        conditions: [N, C], `CONDITIONS` in the last axis.
        images: photons in each cell, float [N, H, W].
        spread: how much showers differ at each shower's condition, in [0, 1]: [N].
    """

    conditions: Tensor
    images: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> "Showers":
        """Some of the showers."""
        return Showers(self.conditions[indices], self.images[indices], self.spread[indices])


@dataclass(frozen=True)
class Calorimeter:
    """A grid of cells that counts photons, and how many showers of it are simulated for training and for testing.

    Args:
        showers: in all.
        repeats: showers at each condition, of which the spread is taken.
        held_out: share of the conditions that no training sees.
        height: cells of a column (H).
        width: cells of a row (W).
        least_energy: of particles, whose energies are spread evenly on a logarithmic scale.
        most_energy: likewise.
    """

    showers: int = 24000
    repeats: int = 2
    held_out: float = 0.2
    height: int = 16
    width: int = 10
    least_energy: float = 1.0
    most_energy: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.least_energy < self.most_energy:
            raise ConfigurationError(
                f"calorimeter.least_energy is {self.least_energy:g} and calorimeter.most_energy "
                f"{self.most_energy:g}; both must be above 0, and the first below the second"
            )
        if min(self.height, self.width) < 4:
            raise ConfigurationError(
                f"calorimeter.height is {self.height} and calorimeter.width {self.width}; both must be at least 4"
            )
        if self.repeats < 2:
            raise ConfigurationError(
                f"calorimeter.repeats is {self.repeats}; showers at equal conditions differ, which at least 2 show"
            )
        if not 0 < self.held_out < 1:
            raise ConfigurationError(f"calorimeter.held_out is {self.held_out:g}; it must be above 0 and below 1")
        if not 0 < self.held_out_conditions < self.distinct:
            raise ConfigurationError(
                f"calorimeter.showers is {self.showers}, which are {self.distinct} conditions with "
                f"{self.repeats} showers each, of which {self.held_out:g} cannot be held out; take more"
            )

    @property
    def distinct(self) -> int:
        """How many conditions there are."""
        return self.showers // self.repeats

    @property
    def held_out_conditions(self) -> int:
        """How many of them no training sees."""
        return round(self.held_out * self.distinct)

    def data(self, seed: int) -> tuple[Showers, Showers]:
        """Showers for training and for testing, which share no condition; the same for the same seed."""
        draws = np.random.default_rng(key(seed, "calorimeter"))
        conditions = self.draw_conditions(self.distinct, draws).repeat_interleave(self.repeats, 0)
        images = self.simulate(conditions, draws)
        test = self.held_out_conditions * self.repeats
        showers = Showers(conditions, images, spread(images, self.repeats))
        rows = torch.arange(len(showers))
        return showers.select(rows[test:]), showers.select(rows[:test])

    def draw_conditions(self, count: int, draws: np.random.Generator) -> Tensor:
        """[count, C] conditions of particles, as many of each regime as chance has it."""
        low, high = np.log([self.least_energy, self.most_energy])
        regimes = draws.integers(len(REGIMES), size=count)
        kinds = np.array([(regime.mass, regime.charge) for regime in REGIMES])[regimes]
        share = draws.uniform(*MIDDLE, (count, 2))
        centres = share * [self.height, self.width]
        drawn = [np.exp(draws.uniform(low, high, (count, 1))), centres, kinds]
        return torch.from_numpy(np.concatenate(drawn, 1)).float()

    def simulate(self, conditions: Tensor, draws: np.random.Generator) -> Tensor:
        """The Monte-Carlo: [N, H, W] photons of showers at `conditions` [N, C], each photon drawn on its own.

        Raises:
            DataError: if there is a condition that `check` refuses.
        """
        self.check(conditions)
        kinds = [[regime.photons, regime.width, regime.fluctuation] for regime in REGIMES]
        photons, width, fluctuation = np.array(kinds)[regimes_of(conditions).numpy()].T
        energy, row, column = conditions[:, :3].double().numpy().T
        # A gamma distribution of mean 1 and variance fluctuation².
        factor = draws.gamma(fluctuation**-2, fluctuation**2)
        shower = np.repeat(np.arange(len(energy)), draws.poisson(photons * energy * factor))
        spots = draws.standard_normal((2, len(shower))) * width[shower]
        rows = np.floor(row[shower] + spots[0]).astype(int)
        columns = np.floor(column[shower] + spots[1]).astype(int)
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        cells = ((shower * self.height + rows) * self.width + columns)[inside]
        counted = np.bincount(cells, minlength=len(energy) * self.height * self.width)
        return torch.from_numpy(counted).float().view(-1, self.height, self.width)

    def check(self, conditions: Tensor) -> None:
        """Refuses conditions that this calorimeter has no showers of.

        Raises:
            DataError: names the first of them, its value, and what is allowed.
        """
        if conditions.ndim != 2 or conditions.shape[1] != len(CONDITIONS):
            shape = " × ".join(map(str, conditions.shape))
            raise DataError(f"conditions are {shape} numbers; each must have {', '.join(CONDITIONS)}")
        ends = [share * side for share in MIDDLE for side in (self.height, self.width)]
        low = conditions.new_tensor([self.least_energy, *ends[:2]])
        high = conditions.new_tensor([self.most_energy, *ends[2:]])
        values = conditions[:, :3]
        wrong = ~((values >= low * (1 - 1e-6)) & (values <= high * (1 + 1e-6)))
        if wrong.any():
            shower, place = wrong.nonzero()[0].tolist()
            raise DataError(
                f"condition {shower + 1} has {CONDITIONS[place]} {values[shower, place]:g}; it must be between "
                f"{low[place]:g} and {high[place]:g}"
            )
        known = (conditions[:, None, 3:] == _kinds(conditions)).all(-1).any(-1)
        if not known.all():
            shower = int((~known).nonzero()[0])
            mass, charge = conditions[shower, 3:].tolist()
            kinds = ", ".join(f"{regime.mass:g} and {regime.charge:g}" for regime in REGIMES)
            raise DataError(f"condition {shower + 1} has mass {mass:g} and charge {charge:g}; known: {kinds}")


def regimes_of(conditions: Tensor) -> Tensor:
    """The place in `REGIMES` of the regime of each condition: [N, C] to int64 [N]."""
    return (conditions[:, None, 3:] == _kinds(conditions)).all(-1).int().argmax(-1)


def spread(images: Tensor, repeats: int) -> Tensor:
    """How much showers differ at each condition: the cells' standard deviation, summed and scaled to [0, 1].

    Args:
        images: [N, H, W], `repeats` showers of a condition after each other.

    Returns:
        [N], equal for showers of the same condition.
    """
    deviations = images.unflatten(0, (-1, repeats)).std(1).sum((1, 2))
    low, high = deviations.min(), deviations.max()
    return ((deviations - low) / (high - low).clamp(min=1e-12)).repeat_interleave(repeats)


def _kinds(conditions: Tensor) -> Tensor:
    return conditions.new_tensor([(regime.mass, regime.charge) for regime in REGIMES])
