"""Measures of reconstructions, against other libraries and by hand."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import signal

from cl_ac.sound import metrics


@pytest.fixture
def pair():
    stream = torch.Generator().manual_seed(0)
    return torch.randn(2, 400, generator=stream), torch.randn(2, 400, generator=stream)


def test_signal_to_noise_by_hand():
    waves, found = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.5]])
    assert metrics.mean_squared_error(waves, found).item() == pytest.approx(0.125)
    assert metrics.signal_to_noise(waves, found).item() == pytest.approx(20)


def test_the_scale_invariant_ratio_is_that_of_the_angle(pair):
    waves, found = pair
    cosine = [np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(waves.numpy(), found.numpy(), strict=True)]
    expected = 10 * np.log10([each / (1 - each) for each in cosine])
    result = metrics.scale_invariant_signal_to_noise(waves, 7 * found + 3)
    np.testing.assert_allclose(result, expected, rtol=1e-3)


def test_log_spectral_distance_against_scipy(pair):
    rate, hop = 1000, 10
    window = signal.get_window("hann", 4 * hop)

    def log_power(values):
        padded = np.pad(values.numpy(), 2 * hop)
        starts = range(0, len(padded) - 4 * hop + 1, hop)
        frames = np.stack([padded[start : start + 4 * hop] * window for start in starts])
        return np.log10(np.maximum(np.abs(np.fft.rfft(frames)) ** 2, 1e-10))

    expected = [np.sqrt(((log_power(a) - log_power(b)) ** 2).mean(1)).mean() for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(metrics.log_spectral_distance(*pair, rate), expected, rtol=1e-4)


def test_all_measures_have_a_value_for_each_clip(pair):
    found = metrics.measures(*pair, 1000)
    assert {"MSE", "SNR", "SI-SNR", "LSD"} <= set(found)
    assert all(len(values) == 2 for values in found.values())


def test_silence_has_finite_measures():
    silent = torch.zeros(1, 400)
    found = metrics.measures(silent, silent, 1000)
    assert all(found[name].isfinite().all() for name in ("MSE", "SNR", "SI-SNR", "LSD"))


def test_measures_of_packages_are_nan_where_they_find_too_little_speech(pair, monkeypatch):
    class PesqError(Exception):
        pass

    def pesq(rate, wave, found, mode):
        assert (rate, mode) == (8000, "nb")
        if wave[0] > 0:
            raise PesqError
        return 2.5

    def stoi(wave, found, rate):
        if wave[0] > 0:
            warnings.warn("not enough frames", RuntimeWarning, stacklevel=1)
            return 1e-5
        return 0.75

    monkeypatch.setitem(sys.modules, "pesq", SimpleNamespace(pesq=pesq, PesqError=PesqError))
    monkeypatch.setitem(sys.modules, "pystoi", SimpleNamespace(stoi=stoi))
    monkeypatch.setattr(metrics, "find_spec", lambda name: name)
    waves, found = pair
    waves[:, 0] = torch.tensor([1.0, -1.0])
    measured = metrics.measures(waves, found, 8000)
    assert measured["PESQ"].isnan().tolist() == measured["STOI"].isnan().tolist() == [True, False]
    assert (measured["PESQ"][1].item(), measured["STOI"][1].item()) == (2.5, 0.75)
    # No PESQ is defined at other rates.
    assert "PESQ" not in metrics.measures(waves, found, 1000)
