"""Short recordings and small models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile

RATE = 1000


def sines(count: int, samples: int = 64) -> torch.Tensor:
    """Clips [count, samples] of two sines, different ones each, the loudest value 1."""
    stream = torch.Generator().manual_seed(0)
    time = torch.arange(samples) / RATE
    pitch, phase = 20 + 100 * torch.rand(count, 2, 1, generator=stream), torch.rand(count, 2, 1, generator=stream)
    waves = (2 * torch.pi * (pitch * time + phase)).sin().sum(1)
    return waves / waves.abs().amax(1, keepdim=True)


@pytest.fixture
def recordings(tmp_path) -> Callable[..., Path]:
    """Writes recordings of two speakers, or one file with given values, to a folder."""

    def make(values: np.ndarray | None = None, rate: int = RATE, name: str = "a_one_0.wav") -> Path:
        folder = tmp_path / "recordings"
        folder.mkdir(exist_ok=True)
        if values is not None:
            wavfile.write(folder / name, rate, values)
            return folder
        for index, wave in enumerate(sines(6)):
            speaker = "one" if index < 4 else "two"
            wavfile.write(folder / f"a_{speaker}_{index}.wav", rate, (32767 * wave.numpy()).astype("int16"))
        return folder

    return make


@pytest.fixture
def tones() -> Callable[[int], torch.Tensor]:
    """Makes clips [count, 64]."""
    return sines


@pytest.fixture
def small() -> dict[str, Any]:
    """Options of a small model for these clips."""
    sizes = {"channels": 2, "strides": [4, 4], "latent": 2, "hidden": [8], "width": 4, "depth": 1, "frequencies": 4}
    return {"sample_rate": RATE, "samples": 64, **sizes}
