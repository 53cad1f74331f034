"""Recordings: wav files as values over time, and bands of pitch."""

import math
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cl_ac.errors import DataError, told


def read_wave(path: Path) -> tuple[Tensor, int]:
    """The values [N] of a wav file of one channel, as float32 of the size that the file has them in, and its rate.

    Raises:
        DataError: for a file that is no readable recording of one channel, or that holds no value.
    """
    from scipy.io import wavfile

    try:
        rate, values = wavfile.read(path)
    # scipy raises nearly anything for a damaged file.
    except Exception as error:
        raise DataError(f"cannot read the recording '{path}': {told(error)}; mend it or remove it") from error
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iuf":
        raise DataError(f"'{path}' holds {values.dtype} {list(values.shape)}; it must be a recording of one channel")
    return torch.as_tensor(values.astype("float32")), int(rate)


@lru_cache
def mel_filters(bands: int, bins: int, rate: int) -> Tensor:
    """The weights [bands, bins] by which bands of pitch, the lowest first, sum frequencies up to `rate` / 2 Hz.

    Bands are triangles at equal distances in mel (O'Shaughnessy, 1987). Of many bands and few bins, low ones may hold
    no bin.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, bins)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)
