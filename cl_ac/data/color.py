"""Colours of images, changed in batches on the device, each image in its own way.

Shapes: B batch, C channels (1 or 3).
"""

import itertools
from functools import lru_cache

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError

Strengths = tuple[float, float, float, float]
ORDERS = list(itertools.permutations(range(4)))
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def draw(count: int, strengths: Strengths, share: float, gray: float, generator: torch.Generator) -> Tensor:
    """How the colours of `count` images change, as torchvision's ColorJitter and RandomGrayscale draw it.

    Args:
        strengths: of brightness, contrast and saturation, whose factors are within 1 ± strength and at least 0, and of
            hue, which turns by at most that share of the circle.
        share: of the images whose colours change so.
        gray: share of the images that lose their colours.
    Returns:
        [count, 6]: the factors of brightness, contrast and saturation, the turn of the hue, the place in `ORDERS` of
        the order in which they are applied, and 1 for an image without colours.
    """
    limits = torch.tensor(strengths)
    low, high = torch.cat([(1 - limits[:HUE]).clamp(min=0), -limits[HUE:]]), limits + torch.tensor([1.0, 1.0, 1.0, 0.0])
    factors = low + torch.rand(count, 4, generator=generator) * (high - low)
    order = torch.randint(len(ORDERS), (count, 1), generator=generator)
    changed, decolored = torch.rand(2, count, 1, generator=generator)
    factors = torch.where(changed < share, factors, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    return torch.cat([factors, order, decolored < gray], 1)


def apply(images: Tensor, drawn: Tensor, hue: bool = True) -> Tensor:
    """Images with other colours, up to rounding those of torchvision's `adjust_…` and `rgb_to_grayscale`.

    Args:
        images: float [B, C, height, width] from 0 to 1. With one channel there is neither saturation nor hue.
        drawn: [B, 6] from `draw`, on the same device.
        hue: whether any hue turns.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ConfigurationError(
            f"augmentation.jitter and augmentation.grayscale are for images of 1 or 3 channels; these have {channels}"
        )
    factors, order = drawn[:, :4], _orders(images.device)[drawn[:, 4].long()]  # [B, 4]
    turn = (order == HUE).int().argmax(1)
    # Each image in its own order with one turn of the hue for all: what it does before, the turn, what it does after.
    for place in (0, 1, 2):
        images = _blend(images, factors, order[:, place], place < turn)
    if hue and channels == 3:
        images = turned(images, factors[:, HUE])
    for place in (1, 2, 3):
        images = _blend(images, factors, order[:, place], place > turn)
    return torch.where(drawn[:, 5, None, None, None].bool(), luminance(images), images)


def luminance(images: Tensor) -> Tensor:
    """How bright each pixel is [B, 1, height, width] (ITU-R 601)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images [B, 3, height, width] whose hue is turned by `turns` [B] of the circle.

    In a colour of hue h (0 to 6), value v and chroma c, the channel at the angle n of 5, 3 or 1 has
    `v − c · clamp(min(k, 4 − k), 0, 1)` with `k = (n + h) mod 6` (Smith, 1978).
    """
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = images.split(1, 1)
    apart = chroma.clamp(min=torch.finfo(images.dtype).tiny)
    hue = torch.where(
        value == red,
        (green - blue) / apart,
        torch.where(value == green, 2 + (blue - red) / apart, 4 + (red - green) / apart),
    )
    angle = (hue + 6 * turns[:, None, None, None] + _channel_angles(images.device)) % 6
    return value - chroma * torch.minimum(angle, 4 - angle).clamp(0, 1)


def _blend(images: Tensor, factors: Tensor, operation: Tensor, active: Tensor) -> Tensor:
    """Draws each image towards black, its mean luminance or its luminance, by the factor of its `operation` [B].

    Images that are not `active` [B], or that turn their hue here, stay.
    """
    factor = factors.gather(1, operation[:, None])[:, 0].where(active & (operation != HUE), 1.0)
    light = luminance(images)
    other = light * (operation == SATURATION)[:, None, None, None]
    other = other + light.mean((1, 2, 3), keepdim=True) * (operation == CONTRAST)[:, None, None, None]
    factor = factor[:, None, None, None]
    return (images * factor + other * (1 - factor)).clamp(0, 1)


@lru_cache
def _orders(device: torch.device) -> Tensor:
    """`ORDERS` [24, 4]; kept, since copying them to a GPU would stall each step."""
    return torch.tensor(ORDERS).to(device)


@lru_cache
def _channel_angles(device: torch.device) -> Tensor:
    """The angles of red, green and blue [3, 1, 1] in `turned`; kept for the same reason."""
    return torch.tensor([5.0, 3.0, 1.0])[:, None, None].to(device)
