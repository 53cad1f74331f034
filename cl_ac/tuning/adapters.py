"""Adapters: narrow networks beside or behind the parts of a frozen network (Houlsby et al., 2019; Chen et al., 2022).

Shapes: B batch, D width of what an adapter reads.
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.bank import Bank, Entry

Position = Literal["parallel", "after"]


class Bottleneck(Entry):
    """`scale · up(dropout(relu(down(x))))`, with up and both biases zero at first.

    Args:
        down: makes what reads D values narrow.
        up: makes it as wide as what it is added to.
        scale: fixed factor.
        dropout: share of the narrow values that training zeroes.
    """

    def __init__(self, down: nn.Linear | nn.Conv2d, up: nn.Linear | nn.Conv2d, scale: float, dropout: float):
        super().__init__()
        self.down, self.up, self.scale, self.drop = down, up, scale, nn.Dropout(dropout)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        weight = self.down.weight
        # Kaiming's uniform values for a slope of √5, as of a linear layer of torch.
        bound = 1 / math.sqrt(weight[0].numel())
        weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.scale * self.up(self.drop(torch.relu(self.down(hidden))))


def linear_bottleneck(features: int, width: int, scale: float, dropout: float) -> Bottleneck:
    """An adapter [..., D] to [..., D]."""
    down, up = (skip_init(nn.Linear, *sizes) for sizes in ((features, width), (width, features)))
    return Bottleneck(down, up, scale, dropout)


def convolutional_bottleneck(
    channels: tuple[int, int], stride: tuple[int, ...], width: int, scale: float, dropout: float
) -> Bottleneck:
    """An adapter of 1 × 1 convolutions, [B, channels[0], …] to [B, channels[1], …]."""
    down = skip_init(nn.Conv2d, channels[0], width, 1, stride)
    return Bottleneck(down, skip_init(nn.Conv2d, width, channels[1], 1), scale, dropout)


class Adapted(nn.Module):
    """A part of a network with a bank of adapters.

    Args:
        main: the part.
        bank: adds to its output.
        position: whether the adapters read the part's input (`parallel`) or its output (`after`).
    """

    def __init__(self, main: nn.Module, bank: Bank, position: Position):
        super().__init__()
        self.main, self.bank, self.position = main, bank, position

    def forward(self, hidden: Tensor) -> Tensor:
        output = self.main(hidden)
        return self.bank(output, hidden if self.position == "parallel" else output)


def add_adapters(
    backbone: Backbone,
    width: int = 64,
    scale: float = 0.1,
    dropout: float = 0.1,
    position: Position = "parallel",
    first: int | None = None,
) -> list[Bank]:
    """Puts a bank of adapters at each feed-forward network of a transformer, or at each convolution behind the first
    that is larger than 1 × 1 where there is no transformer.

    Nothing changes until they learn. An adapter reads what the feed-forward network reads, normalised input where norms
    stand before it, as in the equations of the papers.

    Args:
        width: of the bottlenecks.
        scale: factor on what an adapter adds.
        dropout: share of the narrow values that training zeroes.
        position: whether an adapter reads the input of its part or the output.
        first: at so many places only, from shallow to deep; None for all.
    Raises:
        ConfigurationError: if there is no such place, or the width is below 1.
    """
    if width < 1:
        raise ConfigurationError(f"the width of adapters is {width}; it must be at least 1")
    found = [found for found in find_feed_forwards(backbone).values() if found.name]
    added: list[Bank] = []
    for part in found[:first]:
        bank = Bank(partial(linear_bottleneck, part.width, width, scale, dropout))
        modules = [backbone.get_submodule(path) for path in part.paths]
        main = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
        part.replace(backbone, Adapted(main, _placed(bank, main), position))
        added.append(bank)
    if found:
        return added
    for name, layer in _convolutions(backbone)[1:][:first]:
        channels = (layer.in_channels if position == "parallel" else layer.out_channels, layer.out_channels)
        stride = layer.stride if position == "parallel" else (1, 1)
        bank = Bank(partial(convolutional_bottleneck, channels, stride, width, scale, dropout))
        backbone.set_submodule(name, Adapted(layer, _placed(bank, layer), position))
        added.append(bank)
    if not added:
        raise ConfigurationError(
            f"the backbone {type(backbone).__name__} has neither feed-forward networks nor convolutions behind the "
            "first that adapters could stand beside; choose a transformer or a convolutional network"
        )
    return added


def _convolutions(backbone: Backbone) -> list[tuple[str, nn.Conv2d]]:
    """The convolutions of more than one place whose output is as large as that of one of 1 × 1, by name."""
    return [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d)
        and max(module.kernel_size) > 1
        and not isinstance(module.padding, str)
        and all(
            2 * padding == dilation * (size - 1)
            for padding, dilation, size in zip(module.padding, module.dilation, module.kernel_size, strict=True)
        )
    ]


def _placed(bank: Bank, beside: nn.Module) -> Bank:
    """The bank where the part stands."""
    like = next(beside.parameters())
    return bank.to(like.device, like.dtype).train(beside.training)
