"""How far two waves are apart in what is heard: mel spectra at several resolutions.

Shapes: B batch, N samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cl_ac.data.waves import mel_filters
from cl_ac.errors import ConfigurationError


class MelDistance(nn.Module):
    """A distance of waves [B, N] in mel bands of magnitudes, mean over resolutions (Szatkowski et al., 2023).

    For each size of the transform, `mean|M − M̂| + sqrt(mean (M − M̂)²)` of each wave, with Hann windows a quarter of
    their length apart. Bands so narrow that no frequency of a short transform is in them are left out of it.

    Args:
        rate: samples a second.
        sizes: samples of each transform.
        bands: of pitch, as many as there are at most.

    Raises:
        ConfigurationError: for a size below 8 or no band.
    """

    def __init__(self, rate: int, sizes: Sequence[int] = (2048, 1024, 512, 256, 128), bands: int = 128):
        super().__init__()
        if not sizes or min(sizes) < 8 or bands < 1:
            raise ConfigurationError(
                f"the spectra have {list(sizes)} samples and {bands} bands; sizes must be at least 8 and bands 1"
            )
        self.sizes = tuple(sizes)
        for size in self.sizes:
            filters = mel_filters(bands, size // 2 + 1, rate)
            self.register_buffer(f"filters_{size}", filters[filters.sum(1) > 0], persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def spectrum(self, waves: Tensor, size: int) -> Tensor:
        """Mel bands of magnitudes [B, bands, frames] of waves [B, N]."""
        window = self.get_buffer(f"window_{size}")
        found = torch.stft(waves, size, size // 4, window=window, pad_mode="constant", return_complex=True)
        # The root has no slope at 0, where silence is.
        magnitudes = (found.real.square() + found.imag.square() + 1e-12).sqrt()
        return self.get_buffer(f"filters_{size}") @ magnitudes

    def forward(self, waves: Tensor, others: Tensor) -> Tensor:
        """The distance of each wave from the other [B]."""
        distances = []
        for size in self.sizes:
            apart = (self.spectrum(waves, size) - self.spectrum(others, size)).flatten(1)
            distances.append(apart.abs().mean(1) + (apart.square().mean(1) + 1e-12).sqrt())
        return torch.stack(distances).mean(0)
