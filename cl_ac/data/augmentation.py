"""Image augmentation in batches on the device, with randomness per sample.

Crops, resizes, padding and flips are all separable linear maps of an image: `rows @ image @ columns.T` with
one pair of interpolation matrices per sample. A whole batch is therefore two batched matrix products, without
per-sample code, but for larger images on CPUs, where most of these products would be with zeros.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data import color
from cl_ac.errors import ConfigurationError

# Images of so many pixels are cropped one by one on CPUs.
LARGE = 64 * 64


@dataclass(frozen=True)
class Augmentation:
    """How uint8 images become training inputs.

    Args:
        mean: mean per channel in [0, 1], subtracted after scaling to [0, 1]; grey images become coloured
            where there are three values.
        std: standard deviation per channel.
        crop: what part of the padded image is taken in training: `none` the centre, `shift` a random window of
            the output's size, `resized` a random area and aspect ratio resized to the output (Inception style).
        padding: black pixels added on each side before cropping.
        flip: whether half of the images are mirrored left to right.
        size: side of the output in pixels, to which smaller images are enlarged; None keeps the image's size.
        keep: share of the shorter side that evaluation, and training without a crop, keeps: the central square, resized
            to `size` whatever the size of the image. None keeps the central `size` pixels of larger images.
        interpolation: how pixels of other sizes are computed.
        scale: smallest and largest share of the area that a `resized` crop takes.
        ratio: smallest and largest aspect ratio (width / height) of a `resized` crop.
        jitter: how much brightness, contrast, saturation and hue change in training, in random order: factors are
            within 1 ± these values, the hue turns by up to that share of the circle (at most 0.5).
        jittered: share of the images that `jitter` changes.
        grayscale: share of the images that lose their colours.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    crop: Literal["none", "shift", "resized"] = "none"
    padding: int = 0
    flip: bool = False
    size: int | None = None
    keep: float | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jittered: float = 1.0
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ConfigurationError(f"augmentation: mean has {len(self.mean)} channels but std has {len(self.std)}")
        if any(std <= 0 for std in self.std):
            raise ConfigurationError(f"augmentation.std is {self.std}; every value must be above 0")
        if self.padding < 0:
            raise ConfigurationError(f"augmentation.padding is {self.padding}; it must be at least 0")
        if self.size is not None and self.size < 1:
            raise ConfigurationError(f"augmentation.size is {self.size}; it must be at least 1")
        if self.keep is not None and not (0 < self.keep <= 1 and self.size):
            raise ConfigurationError(
                f"augmentation.keep is {self.keep:g} with the size {self.size}; it must be above 0 and at most 1, and "
                "needs augmentation.size"
            )
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0 < low <= high:
                raise ConfigurationError(f"augmentation.{name} is {(low, high)}; it must rise from above 0")
        if min(self.jitter) < 0 or self.jitter[color.HUE] > 0.5:
            raise ConfigurationError(
                f"augmentation.jitter is {self.jitter}; every value must be at least 0, and that of the hue at most 0.5"
            )
        for name, share in {"jittered": self.jittered, "grayscale": self.grayscale}.items():
            if not 0 <= share <= 1:
                raise ConfigurationError(f"augmentation.{name} is {share}; it must be from 0 to 1")

    @property
    def recolors(self) -> bool:
        """Whether colours change in training."""
        return any(self.jitter) or self.grayscale > 0

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the network sees, for images of `height` × `width`."""
        return (self.size, self.size) if self.size else (height, width)

    def output_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees of images of `image_shape`."""
        channels, height, width = image_shape
        return (len(self.mean) if channels == 1 else channels, *self.output_size(height, width))

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor | None:
        """Random windows for `count` images of `height` × `width`.

        Returns:
            [count, 5]: top, left, height, width in pixels of the unpadded image (negative inside the padding) and
            1 where the image is mirrored; behind them, where colours change, the columns of `color.draw`; None if
            nothing is random.
        """
        if self.crop == "none" and not self.flip and not self.recolors:
            return None
        padded = torch.tensor([height + 2 * self.padding, width + 2 * self.padding])
        center = self._center(height, width)
        windows = center.repeat(count, 1)
        if self.crop == "shift":
            room = padded - center[2:4] + 1
            windows[:, :2] = (torch.rand(count, 2, generator=generator) * room).floor() - self.padding
        elif self.crop == "resized":
            windows[:, :4] = _resized_crops(count, padded, self.scale, self.ratio, generator)
            windows[:, :2] -= self.padding
        if self.flip:
            windows[:, 4] = torch.randint(2, (count,), generator=generator)
        if self.recolors:
            colors = color.draw(count, self.jitter, self.jittered, self.grayscale, generator)
            windows = torch.cat([windows, colors], 1)
        return windows

    def _center(self, height: int, width: int) -> Tensor:
        """[5], the window of evaluation: what of the image fits into the output."""
        kept_height, kept_width = map(min, (height, width), self.output_size(height, width))
        if self.keep is not None:
            kept_height = kept_width = max(round(self.keep * min(height, width)), 1)
        return torch.tensor([(height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width, 0.0])

    def apply(self, images: Tensor, windows: Tensor | None = None) -> Tensor:
        """Inputs of the network.

        Args:
            images: uint8 [B, channels, H, W].
            windows: from `draw`, on the same device; None takes the centre and the colours as they are, as in
                evaluation.
        Returns:
            float32 [B, channels, height, width], normalised.
        """
        height, width = images.shape[-2:]
        out_height, out_width = self.output_size(height, width)
        if windows is None:
            center = self._center(height, width)
            if (out_height, out_width) != (height, width) or center.tolist() != [0, 0, height, width, 0]:
                windows = center.to(images.device).expand(len(images), 5)
        if windows is None:
            # A copy even of floats: what follows works in place, and the images belong to the data set.
            floats = images.to(torch.float32, copy=True)
        else:
            cubic = self.interpolation == "bicubic"
            one_by_one = images.device.type == "cpu" and height * width >= LARGE
            resize = cropped_one_by_one if one_by_one else cropped_together
            floats = resize(images, windows, (out_height, out_width), self.padding, cubic)
            if cubic:
                # It overshoots at edges.
                floats = floats.clamp_(0, 255)
            if windows.shape[1] > 5:
                hue = self.jitter[color.HUE] > 0
                floats = 255 * color.apply(floats / 255, windows[:, 5:], hue)
        scale, shift = _normalisation(tuple(self.mean), tuple(self.std), images.device)
        if floats.shape[1] < len(scale):
            return floats * scale + shift
        return floats.mul_(scale).add_(shift)


@lru_cache
def _normalisation(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and summand of pixel values, [channels, 1, 1]; kept, since copying them to a GPU would stall each step."""
    means, stds = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    return (1 / (255 * stds)).to(device), (-means / stds).to(device)


def cropped_together(
    images: Tensor, windows: Tensor, size: tuple[int, int], padding: int, cubic: bool = False
) -> Tensor:
    """Windows of images, resized by two batched products: the fastest way on GPUs, and for small images.

    Args:
        images: uint8 or float32 [B, channels, H, W].
        windows: as `Augmentation.draw` makes them.
        size: height and width that windows are resized to.
        padding: black pixels that windows may reach into.
    Returns:
        float32 [B, channels, *size].
    """
    top, left, height, width, flip = windows[:, :5].unbind(1)
    rows = interpolation(top, height, images.shape[-2], size[0], padding, cubic)
    columns = interpolation(left, width, images.shape[-1], size[1], padding, cubic)
    columns = torch.where(flip.bool()[:, None, None], columns.flip(1), columns)
    with torch.autocast(images.device.type, enabled=False):
        return rows[:, None] @ (images.to(torch.float32) @ columns[:, None].mT)


def cropped_one_by_one(
    images: Tensor, windows: Tensor, size: tuple[int, int], padding: int, cubic: bool = False
) -> Tensor:
    """The same up to rounding, with work for the pixels of each window alone: on CPUs two to four times as fast.

    Pixels become floats window by window: floats of a whole batch are memory that is made anew for each.
    """
    padded = F.pad(images, [padding] * 4) if padding else images
    result = images.new_empty(*images.shape[:2], *size, dtype=torch.float32)
    mode = "bicubic" if cubic else "bilinear"
    for place, (top, left, height, width, flip) in enumerate(windows[:, :5].int().tolist()):
        top, left = top + padding, left + padding
        window = padded[place, :, top : top + height, left : left + width].to(torch.float32)
        if (height, width) != size:
            window = F.interpolate(window[None], size, mode=mode, antialias=True)[0]
        result[place] = window.flip(-1) if flip else window
    return result


def interpolation(start: Tensor, length: Tensor, size: int, out_size: int, padding: int, cubic: bool = False) -> Tensor:
    """Matrices that resize the window [start, start + length) of a line of `size` pixels to `out_size` pixels.

    Bilinear or bicubic with anti-aliasing, as `torchvision.transforms.v2.functional.resized_crop`: pixels
    outside the window do not count; pixels in the padding count as black. A window of length `out_size` is copied
    exactly.

    Args:
        start: [B], first pixel of each window, whole numbers from -padding.
        length: [B], pixels in each window.
    Returns:
        [B, out_size, size].
    """
    device = start.device
    step = (length / out_size)[:, None]
    centers = start[:, None] + (torch.arange(out_size, device=device) + 0.5) * step
    pixels = torch.arange(-padding, size + padding, device=device)
    distance = (pixels + 0.5) - centers[:, :, None]
    distance = distance.abs() / step.clamp(min=1)[:, :, None]
    weights = _cubic(distance) if cubic else (1 - distance).clamp_(min=0)
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    weights = weights * inside[:, None]
    weights /= weights.sum(2, keepdim=True)
    return weights[:, :, padding : padding + size]


def _cubic(distance: Tensor) -> Tensor:
    """The weight of a pixel at a distance in pixels (Keys, 1981, with a = −1/2)."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


def _resized_crops(
    count: int, size: Tensor, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """[count, 4] windows as torchvision's RandomResizedCrop draws them: ten tries, else the largest central crop."""
    height, width = size.tolist()
    area = height * width * torch.empty(count, 10).uniform_(*scale, generator=generator)
    log_ratio = torch.empty(count, 10).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=generator)
    aspect = log_ratio.exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    central_width, central_height = width, height
    if width / height < ratio[0]:
        central_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        central_width = round(height * ratio[1])
    crop_width = torch.where(any_fits, widths.gather(1, first)[:, 0], float(central_width))
    crop_height = torch.where(any_fits, heights.gather(1, first)[:, 0], float(central_height))
    place = torch.rand(count, 2, generator=generator)
    top = torch.where(any_fits, (place[:, 0] * (height - crop_height + 1)).floor(), (height - crop_height) // 2)
    left = torch.where(any_fits, (place[:, 1] * (width - crop_width + 1)).floor(), (width - crop_width) // 2)
    return torch.stack([top, left, crop_height, crop_width], 1)
