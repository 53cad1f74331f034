"""HyperSound: one pass gives the network from time to amplitude that stands for a clip.

Shapes: B batch, N samples, M moments.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.hypernetwork import Hypernetwork, Mode
from cl_ac.hypernetworks.layout import Start
from cl_ac.sound.encoder import Encoder
from cl_ac.sound.targets import FourierTarget, Kind, SirenTarget, moments


class HyperSound(nn.Module):
    """An encoder and a hypernetwork that emits a network from time to amplitude (Szatkowski et al., 2023).

    Args:
        sample_rate: samples a second.
        samples: of a clip, N.
        channels: of the encoder's first convolution; each stride doubles them.
        strides: of the encoder.
        latent: channels of what the encoder gives.
        hidden: widths of the hypernetwork's hidden layers.
        target: `fourier`, a perceptron on sines of time, or `siren`, one with sines between its layers.
        width: of the target's hidden layers.
        depth: how many there are.
        frequencies: of a Fourier target: 1, 2, 4, … periods of the clip.
        emitted: layers of the target that are emitted, from 0; all if there is none. The others are shared by all
            clips.
        mode: whether emitted weights `replace` shared ones, are added to them (`add`) or `modulate` them.

    Raises:
        ConfigurationError: for a size below 1, or frequencies above half the rate.
    """

    def __init__(
        self,
        sample_rate: int = 8000,
        samples: int = 4096,
        channels: int = 8,
        strides: Sequence[int] = (4, 4, 4, 4),
        latent: int = 16,
        hidden: Sequence[int] = (256, 256),
        target: Kind = "fourier",
        width: int = 24,
        depth: int = 2,
        frequencies: int = 11,
        emitted: Sequence[int] = (),
        mode: Mode = "replace",
    ):
        super().__init__()
        if sample_rate < 1:
            raise ConfigurationError(f"model.sample_rate is {sample_rate}; it must be at least 1")
        self.encoder = Encoder(samples, channels, strides, latent)
        if target == "fourier" and 2**frequencies > samples:
            raise ConfigurationError(
                f"model.frequencies is {frequencies}, which reaches {2 ** (frequencies - 1)} periods of a clip; those "
                f"of {samples} samples hold at most {samples // 2}"
            )
        network = FourierTarget(width, depth, frequencies) if target == "fourier" else SirenTarget(width, depth)
        unknown = sorted({layer for layer in emitted if not 0 <= layer <= depth})
        if unknown:
            raise ConfigurationError(f"model.emitted has {unknown}; the layers of the target are 0 to {depth}")
        names = [f"layers.{layer}" for layer in emitted] or None
        start: Start = "fan" if target == "fourier" else "own"
        self.hypernetwork = Hypernetwork(network, self.encoder.outputs, hidden, names, mode, start)
        self.rate, self.samples = sample_rate, samples

    @property
    def emitted_weights(self) -> int:
        """How many numbers stand for a clip."""
        return len(self.hypernetwork.layout)

    @property
    def compression(self) -> float:
        """Samples of a clip for each number that stands for it."""
        return self.samples / self.emitted_weights

    def forward(self, waves: Tensor, resampled: float = 1.0) -> Tensor:
        """Clips [B, N] as their networks give them [B, M], at `resampled` times the rate."""
        time = moments(self.samples, resampled).to(waves.device)
        return self.hypernetwork(self.encoder(waves), time, same_inputs=True)
