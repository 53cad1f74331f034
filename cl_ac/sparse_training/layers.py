"""Which weights of a network carry masks, and how masks are kept.

A mask is part of how a layer computes its weight: what is masked is zero in every pass, has no gradient, and so stays
zero under any optimiser, momentum and weight decay. It is copied, saved and loaded with the network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from cl_ac.network import Backbone


class Mask(nn.Module):
    """Keeps a weight where it is true, and gives zero elsewhere; true everywhere until it is set.

    Args:
        weight: what it is for; shows shape and device.
    """

    kept: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        # No product: an infinite gradient times 0 would be no number.
        return torch.where(self.kept, weight, 0.0)


@dataclass(frozen=True, eq=False)
class MaskedLayer:
    """A weight with a mask.

    Args:
        name: of its layer.
        module: the layer.
        tensor: name of the weight in it.
        blocks: matrices that the weight consists of: groups of a convolution, or the projections of attention.
        taps: places of the kernel [k, k], () of a linear layer.
    """

    name: str
    module: nn.Module
    tensor: str
    blocks: int = 1
    taps: tuple[int, ...] = ()

    @property
    def original(self) -> nn.Parameter:
        """What learns, zero where it is masked."""
        return self.module.parametrizations[self.tensor].original  # type: ignore[index]

    @property
    def mask(self) -> Mask:
        """Its mask; other parametrisations, such as adapters, may stand before it."""
        return next(each for each in self.module.parametrizations[self.tensor] if isinstance(each, Mask))  # type: ignore[index]

    @property
    def weight(self) -> Tensor:
        """What the layer computes with."""
        return getattr(self.module, self.tensor)

    @property
    def size(self) -> int:
        """How many weights there are, masked ones included."""
        return self.original.numel()

    @property
    def matrices(self) -> tuple[int, int, int, int]:
        """The weight as blocks × outputs × inputs × taps."""
        outputs, taps = len(self.original) // self.blocks, math.prod(self.taps)
        return self.blocks, outputs, self.size // (self.blocks * outputs * taps), taps

    @property
    def centre(self) -> int:
        """Index of the central tap."""
        index = 0
        for side in self.taps:
            index = index * side + side // 2
        return index

    @property
    def fewest(self) -> int:
        """The fewest non-zeros with which its matrices can be orthogonal."""
        blocks, outputs, inputs, _ = self.matrices
        return blocks * min(outputs, inputs)

    @property
    def density(self) -> float:
        """Share of its weights that are not masked."""
        return self.mask.kept.double().mean().item()

    @torch.no_grad()
    def set(self, weight: Tensor, kept: Tensor) -> None:
        """Gives the layer its values and its mask, both of the weight's shape or of that of `matrices`."""
        kept = kept.reshape(self.original.shape).to(self.original.device)
        self.mask.kept.copy_(kept)
        self.original.copy_(torch.where(kept, weight.reshape(self.original.shape).to(self.original), 0.0))


def put_masks(backbone: Backbone, convolutions_only: bool = False) -> None:
    """Gives a mask to the weight of every convolution and linear layer that is not frozen, projections of attention
    included; true everywhere at first. A layer that has one keeps it.

    Args:
        convolutions_only: leave linear layers without.
    """
    known = {layer.module for layer in masked_layers(backbone)}
    for module in set(backbone.stages[backbone.frozen_stages :].modules()) - known:
        name = _weight_name(module, convolutions_only)
        if name is not None:
            parametrize.register_parametrization(module, name, Mask(getattr(module, name)))


def masked_layers(module: nn.Module) -> Iterator[MaskedLayer]:
    """The weights of `module` that carry masks, in its order."""
    for name, each in module.named_modules():
        tensor = "in_proj_weight" if isinstance(each, nn.MultiheadAttention) else "weight"
        if not parametrize.is_parametrized(each, tensor):
            continue
        if any(isinstance(part, Mask) for part in each.parametrizations[tensor]):
            if isinstance(each, nn.MultiheadAttention):
                yield MaskedLayer(name, each, tensor, blocks=3)
            elif isinstance(each, _ConvNd) and not _is_patchwise(each):
                yield MaskedLayer(name, each, tensor, each.groups, each.kernel_size)
            else:
                yield MaskedLayer(name, each, tensor)


def _weight_name(module: nn.Module, convolutions_only: bool) -> str | None:
    """The name of the weight that carries a mask, if `module` has one."""
    if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        return "weight"
    if convolutions_only:
        return None
    if isinstance(module, nn.MultiheadAttention):
        return "in_proj_weight" if module.in_proj_weight is not None else None
    return "weight" if isinstance(module, nn.Linear) else None


def _is_patchwise(layer: _ConvNd) -> bool:
    """Whether a convolution reads patches that do not overlap, so that it is a linear map of each."""
    alone = layer.groups == 1 and max(layer.kernel_size) > 1 and tuple(layer.kernel_size) == tuple(layer.stride)
    return alone and layer.padding in (0, "valid", (0,) * len(layer.kernel_size))
