"""The distance of mel spectra."""

import numpy as np
import pytest
import torch

from cl_ac.data.waves import mel_filters
from cl_ac.errors import ConfigurationError
from cl_ac.sound.spectral import MelDistance


def test_one_resolution_against_numpy():
    stream = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 2, 200, generator=stream)
    filters = mel_filters(6, 33, 1000).numpy()
    window = np.hanning(65)[:-1]

    def bands(wave):
        padded = np.pad(wave.numpy(), 32)
        frames = np.stack([padded[at : at + 64] * window for at in range(0, len(padded) - 63, 16)])
        return np.abs(np.fft.rfft(frames)) @ filters.T

    apart = [bands(a) - bands(b) for a, b in zip(first, second, strict=True)]
    expected = [np.abs(each).mean() + np.sqrt((each**2).mean()) for each in apart]
    np.testing.assert_allclose(MelDistance(1000, [64], 6)(first, second), expected, rtol=1e-3)


def test_bands_without_a_frequency_are_left_out():
    distance = MelDistance(8000, [128], 128)
    assert 0 < len(distance.get_buffer("filters_128")) < 128
    assert (distance.get_buffer("filters_128").sum(1) > 0).all()


def test_silence_has_a_slope_that_is_a_number():
    found = torch.zeros(1, 200, requires_grad=True)
    MelDistance(1000, [64, 32], 8)(found, torch.zeros(1, 200)).sum().backward()
    assert found.grad.isfinite().all()


def test_transforms_of_nothing_are_refused():
    with pytest.raises(ConfigurationError, match="at least 8"):
        MelDistance(1000, [4])
