"""Labelled images, or texts: resident tensors, or files that are decoded when asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from cl_ac.data.decoding import square


class Images(Protocol):
    """N images of one shape. A uint8 tensor [N, channels, height, width] is one; so is anything that acts like it."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor: ...


class UnreadImages(ABC):
    """N images of one shape that are read each time they are asked for."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """N, channels, height and width."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64) as bytes."""

    @abstractmethod
    def select(self, indices: Tensor) -> "UnreadImages":
        """The images at `indices` (int64), still unread."""


@dataclass(frozen=True)
class ImageFiles(UnreadImages):
    """Images in files, decoded to RGB, the shorter side resized to `size`, then cropped to the central square.

    Args:
        paths: one file per image.
        size: side of the square in pixels.
    """

    paths: Sequence[Path]
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), 3, self.size, self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        for image, index in zip(images, indices.tolist(), strict=True):
            image.copy_(square(self.paths[index], self.size))
        return images

    def select(self, indices: Tensor) -> "ImageFiles":
        """The images at `indices`, still in their files."""
        return ImageFiles([self.paths[index] for index in indices.tolist()], self.size)


@dataclass(frozen=True)
class ImageParts:
    """Several sources of images, one after the other, such as files of a task followed by exemplars in memory."""

    parts: Sequence[Images]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.parts[0].shape[1:])

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, indices: Tensor) -> Tensor:
        result = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        start = 0
        for part in self.parts:
            here = ((indices >= start) & (indices < start + len(part))).nonzero()[:, 0]
            if len(here):
                result[here] = part[indices[here] - start]
            start += len(part)
        return result


@dataclass(frozen=True)
class Samples:
    """N images with their targets.

    Args:
        images: uint8 tensor [N, channels, height, width], or files of that shape; texts are int32 [N, 1, 1, tokens].
        targets: int64 [N], numbered in the order in which classes arrive.
        extras: more tensors [N, ...] that travel with each image, such as the logits stored with an exemplar.
    """

    images: Images
    targets: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def resident(self) -> bool:
        """Whether the images are a tensor that can live on the training device."""
        return isinstance(self.images, Tensor)

    def fault(
        self, image_shape: tuple[int, int, int], num_classes: int, dtype: torch.dtype = torch.uint8
    ) -> str | None:
        """What is wrong with samples that somebody else made, so that "samples whose …" is a sentence; None if nothing.

        Args:
            image_shape: channels, height and width that were promised.
            num_classes: targets must be below it.
            dtype: that images must have; token numbers of texts are int32.
        """
        targets, count = self.targets, len(self.images)
        if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point() or targets.is_complex():
            return f"targets are {_kind(targets)}; they must be a tensor of integers [N]"
        lengths = {"targets": targets, **self.extras}
        for name, values in lengths.items():
            if not isinstance(values, Tensor) or len(values) != count:
                return f"{name} are {_kind(values)}, which is not one for each of {count} images"
        if count == 0:
            return "number is 0; there must be at least one"
        if tuple(self.images.shape[1:]) != image_shape:
            return f"images have the shape {tuple(self.images.shape[1:])}, but image_shape is {image_shape}"
        first = self.images[torch.tensor([0])]
        if not isinstance(first, Tensor) or first.dtype != dtype:
            allowed = "bytes from 0 to 255 (torch.uint8), `augmentation` scales" if dtype == torch.uint8 else f"{dtype}"
            return f"images are {_kind(first)}; they must be {allowed}"
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= num_classes:
            return (
                f"targets go from {low} to {high}; with {num_classes} classes they must be from 0 to {num_classes - 1}"
            )
        return None

    def select(self, indices: Tensor) -> "Samples":
        """The samples at `indices` (int64 or bool mask); files stay files, tensors are copied, mixtures decoded."""
        if indices.dtype == torch.bool:
            indices = indices.nonzero()[:, 0]
        images = self.images.select(indices) if isinstance(self.images, UnreadImages) else self.images[indices]
        return Samples(images, self.targets[indices], {name: value[indices] for name, value in self.extras.items()})

    def to(self, device: torch.device) -> "Samples":
        """The same samples with every tensor on `device`; files stay where they are."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return Samples(images, self.targets.to(device), {name: v.to(device) for name, v in self.extras.items()})

    def without_extras(self) -> "Samples":
        """Images and targets only."""
        return Samples(self.images, self.targets)


def concatenate(*parts: Samples) -> Samples:
    """All samples of `parts` in order; extras are kept when every part has them."""
    parts = tuple(part for part in parts if len(part)) or parts[:1]
    if len(parts) == 1:
        return parts[0]
    if all(part.resident for part in parts):
        device = parts[0].targets.device
        images: Images = torch.cat([cast(Tensor, part.images).to(device) for part in parts])
        parts = tuple(part.to(device) for part in parts)
    else:
        # Worker processes decode, and they cannot share tensors of an accelerator.
        parts = tuple(part.to(torch.device("cpu")) for part in parts)
        images = ImageParts([part.images for part in parts])
    names = set.intersection(*(set(part.extras) for part in parts))
    extras = {name: torch.cat([part.extras[name] for part in parts]) for name in sorted(names)}
    return Samples(images, torch.cat([part.targets for part in parts]), extras)


def _kind(value: object) -> str:
    """What a value is, in few words."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
