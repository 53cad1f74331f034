"""Recordings with other phases, which sound the same: an augmentation.

Shapes: B clips of N samples.
"""

import math

import torch
from torch import Tensor

# Of the pole: the nearer to 1, the narrower the band whose phases turn.
RADIUS = 0.99
LOWEST, HIGHEST = 20.0, 2000.0  # frequencies of the pole, in hertz
# Samples after which what the filter still answers to one is below 1e-8.
TAIL = 2048


def mangled(clips: Tensor, rate: int, share: float, stream: torch.Generator) -> Tensor:
    """Clips [B, N] of which each, with probability `share`, has gone through an all-pass filter of its own.

    The frequency of its pole is drawn from 20 to 2,000 hertz, evenly by pitch (the augmentation of RAVE, Caillon and
    Esling, 2021).

    Args:
        rate: samples a second.
    """
    chosen = torch.rand(len(clips), generator=stream) < share
    pitch = torch.rand(len(clips), generator=stream)
    frequencies = LOWEST * (HIGHEST / LOWEST) ** pitch
    return torch.where(chosen[:, None], all_passed(clips, 2 * math.pi * frequencies / rate), clips)


def all_passed(clips: Tensor, angles: Tensor, radius: float = RADIUS) -> Tensor:
    """Clips [B, N] behind a filter that turns phases around `angles` [B] and changes no magnitude.

    Its transfer function is `(r² − 2 r cos(ω) z⁻¹ + z⁻²) / (1 − 2 r cos(ω) z⁻¹ + r² z⁻²)`.

    Args:
        angles: ω of the pole, radians a sample.
        radius: r of the pole, below 1.
    """
    length = clips.shape[1] + TAIL
    delay = torch.exp(-2j * math.pi * torch.fft.rfftfreq(length, dtype=clips.dtype))  # z⁻¹ [F]
    middle = (2 * radius * angles.to(clips).cos())[:, None] * delay
    response = (radius**2 - middle + delay**2) / (1 - middle + radius**2 * delay**2)
    return torch.fft.irfft(torch.fft.rfft(clips, length) * response, length)[:, : clips.shape[1]]
