"""How like a wave a reconstruction is.

Shapes: B batch, N samples.
"""

import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

# Below this, in power, spectra are silence.
SILENCE = 1e-10
# Rates that the packages' measures are defined for.
PESQ_MODES = {8000: "nb", 16000: "wb"}


def mean_squared_error(waves: Tensor, found: Tensor) -> Tensor:
    """The mean square of the difference [B] of reconstructions from waves, both [B, N]."""
    return (waves - found).square().mean(1)


def signal_to_noise(waves: Tensor, found: Tensor) -> Tensor:
    """Power of the wave over that of the difference, in dB [B]."""
    return _decibels(waves.square().sum(1) / (waves - found).square().sum(1).clamp(min=SILENCE))


def scale_invariant_signal_to_noise(waves: Tensor, found: Tensor) -> Tensor:
    """The same of what of the reconstruction lies along the wave, both without their means (Le Roux et al., 2019)."""
    waves, found = (values - values.mean(1, keepdim=True) for values in (waves, found))
    scale = (waves * found).sum(1, keepdim=True) / waves.square().sum(1, keepdim=True).clamp(min=SILENCE)
    along = scale * waves
    return _decibels(along.square().sum(1) / (found - along).square().sum(1).clamp(min=SILENCE))


def log_spectral_distance(waves: Tensor, found: Tensor, rate: int) -> Tensor:
    """Distance of spectra in powers of ten of power [B]: root mean square over frequencies, mean over time.

    Windows (Hann) are four hundredths of a second long, and a hundredth apart.
    """
    hop = max(rate // 100, 1)
    window = torch.hann_window(4 * hop, device=waves.device)

    def log_power(values: Tensor) -> Tensor:
        spectrum = torch.stft(values, 4 * hop, hop, window=window, pad_mode="constant", return_complex=True)
        return spectrum.abs().square().clamp(min=SILENCE).log10()

    return (log_power(waves) - log_power(found)).square().mean(1).sqrt().mean(1)


def measures(waves: Tensor, found: Tensor, rate: int) -> dict[str, Tensor]:
    """All measures there are, each [B] and NaN where a clip has none: PESQ and STOI where their packages are installed.

    Raises:
        ValueError: if the shapes differ.
    """
    if waves.shape != found.shape:
        raise ValueError(f"waves {list(waves.shape)} and reconstructions {list(found.shape)} differ in shape")
    result = {
        "MSE": mean_squared_error(waves, found),
        "SNR": signal_to_noise(waves, found),
        "SI-SNR": scale_invariant_signal_to_noise(waves, found),
        "LSD": log_spectral_distance(waves, found, rate),
    }
    if find_spec("pesq") and rate in PESQ_MODES:
        result["PESQ"] = torch.tensor([_pesq(*pair, rate) for pair in zip(waves, found, strict=True)])
    if find_spec("pystoi"):
        result["STOI"] = torch.tensor([_stoi(*pair, rate) for pair in zip(waves, found, strict=True)])
    return result


def _pesq(wave: Tensor, found: Tensor, rate: int) -> float:
    """PESQ of a wave [N]; NaN where it finds no speech."""
    from pesq import PesqError, pesq

    try:
        return float(pesq(rate, wave.numpy(), found.numpy(), PESQ_MODES[rate]))
    except (PesqError, ValueError):
        return float("nan")


def _stoi(wave: Tensor, found: Tensor, rate: int) -> float:
    """STOI of a wave [N]; NaN of less than a third of a second of speech, where the package warns and makes one up."""
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(wave.numpy(), found.numpy(), rate))
        except RuntimeWarning:
            return float("nan")


def _decibels(ratio: Tensor) -> Tensor:
    return 10 * ratio.clamp(min=SILENCE).log10()
