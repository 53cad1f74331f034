"""What maps a condition to a vector of weights.

Shapes: B batch, D values of a condition, P emitted weights.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.layout import Spread


class Emitter(nn.Module):
    """A perceptron from conditions [B, D] to weights [B, P], which vary at first as `spread` says.

    The last layer is initialised for each emitted tensor by itself (Chang et al., 2020): uniform, with the variance
    that the tensor should have divided by the width of the last hidden layer. Values of the condition should have a
    mean square of 1. Hidden layers are He's.

    Args:
        inputs: D.
        hidden: widths of the hidden layers; none for a linear map.
        spread: of the weights.

    Raises:
        ConfigurationError: for a size below 1.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], spread: Spread):
        super().__init__()
        self.layers = perceptron([inputs, *hidden, len(spread.mean)])
        self.reset(spread)

    @torch.no_grad()
    def reset(self, spread: Spread, generator: torch.Generator | None = None) -> None:
        """Draws everything anew, from PyTorch's global stream where no generator is given."""
        *hidden, last = linears(self.layers)
        for layer in hidden:
            draw(layer.weight, math.sqrt(2 / layer.in_features), generator)
            layer.bias.zero_()
        draw(last.weight, spread.share / math.sqrt(last.in_features), generator)
        last.weight.mul_(spread.deviation[:, None].to(last.weight.device))
        last.bias.copy_(spread.mean)

    def forward(self, condition: Tensor) -> Tensor:
        return self.layers(condition)


class ChunkedEmitter(nn.Module):
    """A small perceptron that emits weights [B, P] in chunks, each with a learned embedding (von Oswald et al., 2020).

    It may have far fewer weights than it emits. All chunks share its last layer, so that what it gives is multiplied
    by the deviation of each weight, and its mean added: so every tensor varies at first as it should.

    Args:
        inputs: D.
        hidden: widths of the hidden layers; none for a linear map.
        spread: of the weights.
        chunk: weights that are emitted at a time.
        chunk_inputs: values of a chunk's embedding.

    Raises:
        ConfigurationError: for a size below 1.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], spread: Spread, chunk: int, chunk_inputs: int):
        super().__init__()
        if min(chunk, inputs, chunk_inputs) < 1:
            raise ConfigurationError(
                f"a chunk of {chunk} weights has an embedding of {chunk_inputs} beside one of {inputs}; each must be "
                "at least 1"
            )
        count = -(-len(spread.mean) // chunk)
        self.layers = perceptron([inputs + chunk_inputs, *hidden, chunk])
        self.chunks = nn.Parameter(torch.empty(count, chunk_inputs))
        self.register_buffer("mean", torch.empty_like(spread.mean))
        self.register_buffer("deviation", torch.empty_like(spread.deviation))
        self.reset(spread)

    mean: Tensor
    deviation: Tensor

    @torch.no_grad()
    def reset(self, spread: Spread, generator: torch.Generator | None = None) -> None:
        """Draws everything anew, from PyTorch's global stream where no generator is given."""
        *hidden, last = linears(self.layers)
        for layer, scale in [*((each, math.sqrt(2)) for each in hidden), (last, spread.share)]:
            draw(layer.weight, scale / math.sqrt(layer.in_features), generator)
            layer.bias.zero_()
        draw(self.chunks, 1.0, generator)
        self.mean.copy_(spread.mean)
        self.deviation.copy_(spread.deviation)

    def forward(self, condition: Tensor) -> Tensor:
        batch, count = len(condition), len(self.chunks)
        pairs = [condition[:, None].expand(-1, count, -1), self.chunks.expand(batch, -1, -1)]
        emitted = self.layers(torch.cat(pairs, -1)).flatten(1)[:, : len(self.mean)]  # [B, chunks · chunk] → [B, P]
        return self.mean + self.deviation * emitted


def emitter(
    inputs: int, hidden: Sequence[int], spread: Spread, chunk: int = 0, chunk_inputs: int = 32
) -> Emitter | ChunkedEmitter:
    """What emits in chunks of `chunk` weights, or all at once if that is 0; arguments as of both classes."""
    if chunk:
        return ChunkedEmitter(inputs, hidden, spread, chunk, chunk_inputs)
    return Emitter(inputs, hidden, spread)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers between `widths`, rectified but for the last.

    Raises:
        ConfigurationError: for a width below 1, but that of the last layer.
    """
    if min(widths[:-1]) < 1:
        raise ConfigurationError(
            f"a hypernetwork reads {widths[0]} values and has hidden layers of "
            f"{list(widths[1:-1])}; each must be at least 1"
        )
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def linears(layers: nn.Sequential) -> list[nn.Linear]:
    """The linear layers of a perceptron."""
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def draw(values: Tensor, deviation: float, generator: torch.Generator | None) -> None:
    """Fills `values` uniformly around 0 with a deviation, drawn on the CPU."""
    bound = math.sqrt(3) * deviation
    values.copy_(torch.empty(values.shape).uniform_(-bound, bound, generator=generator))
