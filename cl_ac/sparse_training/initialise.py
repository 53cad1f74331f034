"""Values and masks of one layer, of a given number of weights: exactly orthogonal, and what that is compared with."""

import math
from typing import Literal

import torch
from torch import Tensor

from cl_ac.sparse_training.layers import MaskedLayer
from cl_ac.sparse_training.orthogonal import sparse_orthogonal

Kernels = Literal["scattered", "fuller", "whole"]

# Steps of the search for approximate isometry, and the rate at which it begins.
ISOMETRY_STEPS, ISOMETRY_RATE = 1000, 0.1


def central_count(layer: MaskedLayer, count: int, kernels: Kernels) -> int:
    """Non-zeros of the orthogonal matrices at the centre of a layer that keeps `count` weights."""
    blocks, outputs, inputs, taps = layer.matrices
    places, density = blocks * outputs * inputs, count / layer.size
    if kernels == "whole":
        return max(count // taps, layer.fewest)
    if kernels == "fuller":
        density = min(1.0, taps * density, math.sqrt(density))
    return min(max(round(density * places), layer.fewest), count)


@torch.no_grad()
def exactly_orthogonal(
    layer: MaskedLayer, count: int, gain: float, kernels: Kernels, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sparse and exactly orthogonal matrices at the central tap, and zeros that are free to learn elsewhere.

    A convolution that is not wider than deep, at stride 1, thereby keeps the norm of each pixel (delta-orthogonal).

    Args:
        count: weights that the layer keeps.
        gain: σ, by which the matrices are multiplied.
        kernels: where the free zeros are: `scattered` over the kernels of the layer; the same with more of `count` in
            the matrices (`fuller`: min(1, k² p, √p) of them, for density p); or in `whole` kernels, those whose centre
            is not zero.
    Returns:
        Values in float64 and mask, both blocks × outputs × inputs × taps.
    """
    blocks, outputs, inputs, _ = layer.matrices
    central = central_count(layer, count, kernels)
    shares = [central // blocks + (index < central % blocks) for index in range(blocks)]
    matrices = torch.stack([sparse_orthogonal(outputs, inputs, share, generator) for share in shares])
    weight = torch.zeros(layer.matrices, dtype=torch.float64)
    weight[..., layer.centre] = gain * matrices
    if kernels == "whole":
        return weight, (matrices != 0)[..., None].expand(layer.matrices)
    kept = weight != 0
    pruned = (~kept).flatten().nonzero()[:, 0]
    free = count - int(kept.sum())
    kept.view(-1)[pruned[torch.randperm(len(pruned), generator=generator)[:free]]] = True
    return weight, kept


def highest(scores: Tensor, count: int, taps: int = 1) -> Tensor:
    """The mask of a layer that keeps its `count` highest scores, or of kernels of so many taps the highest sums."""
    summed = scores.reshape(-1, taps).sum(1)
    kept = torch.zeros_like(summed, dtype=torch.bool)
    kept[summed.sort(descending=True, stable=True).indices[: count // taps]] = True
    return kept[:, None].expand(-1, taps).reshape(scores.shape)


@torch.no_grad()
def rescaled_gaussian(layer: MaskedLayer, kept: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Normal values of variance σ² / (p · inputs), p being the layer's density: the mask lowers no variance."""
    _, _, inputs, taps = layer.matrices
    drawn = torch.randn(layer.original.shape, dtype=torch.float64, generator=generator)
    return gain * drawn / (kept.double().mean() * inputs * taps).sqrt()


@torch.no_grad()
def masked_orthogonal(layer: MaskedLayer, gain: float, generator: torch.Generator) -> Tensor:
    """Dense orthogonal matrices, at the central tap of a convolution, of which the mask will take its part."""
    blocks, outputs, inputs, _ = layer.matrices
    weight = torch.zeros(layer.matrices, dtype=torch.float64)
    for block in range(blocks):
        matrix = torch.empty(outputs, inputs, dtype=torch.float64)
        weight[block, :, :, layer.centre] = gain * torch.nn.init.orthogonal_(matrix, generator=generator)
    return weight.view(layer.original.shape)


@torch.no_grad()
def approximate_isometry(layer: MaskedLayer, kept: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Values for a given mask that come as near as gradient descent finds to an isometry (Lee et al., 2020, AI).

    `min ‖(M ∘ W) (M ∘ W)ᵀ − σ² I‖` over matrices of outputs × (inputs · taps), or of their transposes where these are
    smaller, from rescaled normal values. The rate falls to 0: near its minimum the norm has steep sides.
    """
    blocks, outputs, inputs, taps = layer.matrices
    mask = kept.reshape(blocks, outputs, inputs * taps).double()
    weight = rescaled_gaussian(layer, kept, gain, generator).view_as(mask) * mask
    tall = outputs > inputs * taps
    weight, mask = (weight.mT, mask.mT) if tall else (weight, mask)
    target = gain**2 * torch.eye(weight.shape[1], dtype=torch.float64)
    for step in range(ISOMETRY_STEPS):
        excess = torch.baddbmm(target, weight, weight.mT, beta=-1)
        distance = excess.flatten(1).norm(dim=1).clamp(min=1e-12)
        rate = ISOMETRY_RATE * (1 - step / ISOMETRY_STEPS)
        # The gradient of the distance is 2 E W / ‖E‖.
        weight = weight - 2 * rate * (excess @ weight) * mask / distance[:, None, None]
    return (weight.mT if tall else weight).reshape(layer.original.shape)
