"""Clips of one length out of a folder of wav files.

Shapes: N samples of a clip.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cl_ac.data.waves import read_wave
from cl_ac.errors import DataError


def wave_files(folder: Path) -> list[Path]:
    """The wav files in a folder and the folders in it, in the order of their names.

    Raises:
        DataError: if there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav" and path.is_file())
    if not found:
        raise DataError(f"there is no wav file in '{folder}'; name a folder of recordings")
    return found


def read_waves(paths: Sequence[Path], rate: int) -> list[Tensor]:
    """Recordings [samples] without their mean, the loudest value of each being 1; silence stays 0.

    Raises:
        DataError: for a file that is no recording of one channel at `rate` samples a second, or an empty one.
    """
    waves = []
    for path in paths:
        wave, own = read_wave(path)
        if own != rate:
            raise DataError(
                f"'{path}' has {own} samples a second, not {rate}; resample it, or train a model for that with "
                f"--model.sample_rate {own}"
            )
        wave = wave - wave.mean()
        waves.append(wave / wave.abs().max().clamp(min=1e-6))
    return waves


def middle(wave: Tensor, samples: int, shift: int = 0) -> Tensor:
    """The middle [N] of a recording, or that of one `shift` samples later; shorter ones are laid in silence."""
    start = (len(wave) - samples) // 2 + shift
    kept = wave[max(start, 0) : max(start + samples, 0)]
    clip = wave.new_zeros(samples)
    at = max(-start, 0)
    clip[at : at + len(kept)] = kept[: samples - at]
    return clip


def random_clip(wave: Tensor, samples: int, stream: torch.Generator) -> Tensor:
    """A part [N] of a recording, or a shorter one somewhere in silence."""
    room = abs(len(wave) - samples)
    shift = int(torch.randint(room + 1, (), generator=stream)) - room // 2
    return middle(wave, samples, shift)


def in_clips(wave: Tensor, samples: int) -> Tensor:
    """A recording as clips [clips, N] one after the other, silence behind its end."""
    count = -(-len(wave) // samples)
    return torch.nn.functional.pad(wave, (0, count * samples - len(wave))).view(count, samples)
