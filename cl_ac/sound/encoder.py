"""What a hypernetwork is told about a clip: causal convolutions over its samples.

Shapes: B batch, N samples.
"""

from collections.abc import Sequence
from math import ceil, prod

from torch import Tensor, nn
from torch.nn import functional as F

from cl_ac.errors import ConfigurationError


class CausalConv(nn.Module):
    """A convolution that reads nothing of what comes later: [B, inputs, N] to [B, outputs, ⌈N / stride⌉]."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, size, stride, dilation=dilation)
        self.stride, self.reach = stride, dilation * (size - 1)

    def forward(self, hidden: Tensor) -> Tensor:
        # Whole strides, so that no sample at the end is left out.
        missing = -hidden.shape[-1] % self.stride
        return self.conv(F.pad(hidden, (self.reach - self.stride + 1, missing + self.stride - 1)))


class Residual(nn.Module):
    """A dilated convolution and one of size 1, added to what they read."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ELU(), CausalConv(channels, channels, 7, dilation=dilation), nn.ELU(), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.layers(hidden)


class Encoder(nn.Module):
    """Convolutions as of SoundStream (Zeghidour et al., 2021), for clips of one length: [B, N] to [B, `outputs`].

    Each stride comes after residual units of dilations 1, 3 and 9 and doubles the channels. What is left is normalised
    over channels and time, so that its values have a mean square of 1.

    Args:
        samples: N.
        channels: of the first convolution.
        strides: of the others.
        latent: channels of the last.

    Raises:
        ConfigurationError: for a size below 1.
    """

    def __init__(self, samples: int, channels: int = 8, strides: Sequence[int] = (4, 4, 4, 4), latent: int = 16):
        super().__init__()
        if min(samples, channels, latent, *strides) < 1:
            raise ConfigurationError(
                f"the encoder has clips of {samples} samples, {channels} channels, strides {list(strides)} and "
                f"{latent} latent channels; each must be at least 1"
            )
        layers: list[nn.Module] = [CausalConv(1, channels, 7)]
        for stride in strides:
            layers += [Residual(channels, dilation) for dilation in (1, 3, 9)]
            layers += [nn.ELU(), CausalConv(channels, 2 * channels, 2 * stride, stride)]
            channels *= 2
        frames = ceil(samples / prod(strides))
        self.layers = nn.Sequential(*layers, nn.ELU(), CausalConv(channels, latent, 3), nn.LayerNorm([latent, frames]))
        self.outputs = latent * frames

    def forward(self, waves: Tensor) -> Tensor:
        return self.layers(waves[:, None]).flatten(1)
