"""What a plain spectrogram codec makes of a clip with as many numbers as a network has.

Shapes: B batch, N samples.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError


def keep_largest(waves: Tensor, numbers: int, size: int = 256) -> Tensor:
    """Clips [B, N] out of the largest coefficients of their lapped cosine transform.

    Each kept coefficient is two numbers, its value and its place.

    Args:
        numbers: that stand for a clip.
        size: samples between windows.

    Raises:
        ConfigurationError: for fewer than two numbers.
    """
    if numbers < 2:
        raise ConfigurationError(f"a codec of {numbers} numbers keeps no coefficient; give it at least 2")
    coefficients = lapped(waves, size)
    flat = coefficients.flatten(1)
    kept = min(numbers // 2, flat.shape[1])
    places = flat.abs().topk(kept, 1).indices
    sparse = torch.zeros_like(flat).scatter(1, places, flat.gather(1, places))
    return unlapped(sparse.view_as(coefficients), size)[:, : waves.shape[1]]


def lapped(waves: Tensor, size: int) -> Tensor:
    """The modified discrete cosine transform [B, frames, size] of waves [B, N] (Princen et al., 1987), sine windows."""
    count = -(-waves.shape[1] // size)
    padded = torch.nn.functional.pad(waves, (size, (count + 1) * size - waves.shape[1]))
    return padded.unfold(1, 2 * size, size) @ _basis(size).to(waves).T


def unlapped(coefficients: Tensor, size: int) -> Tensor:
    """The waves [B, ≥ N] of what `lapped` gave: exactly those, if it is given unchanged."""
    batch, frames, _ = coefficients.shape
    parts = coefficients @ _basis(size).to(coefficients)
    whole = coefficients.new_zeros(batch, (frames + 1) * size)
    whole[:, : frames * size] += parts[..., :size].reshape(batch, -1)
    whole[:, size:] += parts[..., size:].reshape(batch, -1)
    return whole[:, size:-size]


@lru_cache
def _basis(size: int) -> Tensor:
    """Windowed cosines [size, 2 size]; those of neighbouring frames are orthogonal."""
    time = torch.arange(2 * size, dtype=torch.float64)[None] + 0.5
    frequency = torch.arange(size, dtype=torch.float64)[:, None] + 0.5
    cosines = torch.cos(math.pi / size * (time + size / 2) * frequency)
    return (math.sqrt(2 / size) * torch.sin(math.pi * time / (2 * size)) * cosines).float()
