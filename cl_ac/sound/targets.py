"""Networks from time to amplitude: implicit representations of a clip.

Shapes: M moments. Time is -1 where a clip begins and 1 where it ends.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError

Kind = Literal["fourier", "siren"]


def moments(samples: int, resampled: float = 1.0) -> Tensor:
    """When the values of a clip of `samples` are, -1 where it begins: [M, 1], M being `samples` · `resampled`."""
    count = round(samples * resampled)
    return (2 * torch.arange(count, dtype=torch.float64) / (samples * resampled) - 1).float()[:, None]


class FourierTarget(nn.Module):
    """A perceptron on sines and cosines of time: [M, 1] to [M] (Szatkowski et al., 2023, HyperSound).

    Args:
        width: of the hidden layers, which are rectified.
        depth: how many there are.
        frequencies: how many sines, and cosines: 1, 2, 4, … periods of the clip.

    Raises:
        ConfigurationError: for a size below 1.
    """

    periods: Tensor

    def __init__(self, width: int = 24, depth: int = 2, frequencies: int = 11):
        super().__init__()
        _check(width=width, depth=depth, frequencies=frequencies)
        self.width, self.depth = width, depth
        self.register_buffer("periods", 2 ** torch.arange(frequencies, dtype=torch.float32), persistent=False)
        widths = [2 * frequencies, *[width] * depth, 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, time: Tensor) -> Tensor:
        phases = math.pi * time * self.periods
        hidden = torch.cat([phases.sin(), phases.cos()], -1)
        for layer in self.layers[:-1]:
            hidden = layer(hidden).relu()
        return self.layers[-1](hidden)[..., 0]


class SirenTarget(nn.Module):
    """A perceptron with sines between its layers: [M, 1] to [M] (Sitzmann et al., 2020, SIREN).

    Args:
        width: of the hidden layers.
        depth: how many there are.
        first: ω of the first layer, the highest angle that it sees at the end of the clip.
        later: ω of the others.

    Raises:
        ConfigurationError: for a size below 1.
    """

    def __init__(self, width: int = 32, depth: int = 3, first: float = 2000.0, later: float = 30.0):
        super().__init__()
        _check(width=width, depth=depth)
        self.width, self.depth = width, depth
        widths = [1, *[width] * depth, 1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.omegas = [first, *[later] * (depth - 1)]
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                bound = 1.0 if index == 0 else math.sqrt(6 / layer.in_features) / later
                layer.weight.uniform_(-bound, bound)

    def forward(self, time: Tensor) -> Tensor:
        hidden = time
        for omega, layer in zip(self.omegas, self.layers, strict=False):
            hidden = (omega * layer(hidden)).sin()
        return self.layers[-1](hidden)[..., 0]


def _check(**sizes: int) -> None:
    """Raises a `ConfigurationError` for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigurationError(f"target.{name} is {size}; it must be at least 1")
