"""Labelled images: resident tensors, or files that are decoded when asked for."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cl_ac.errors import DataError


class Images(Protocol):
    """N images of one shape. A uint8 tensor [N, channels, height, width] is one; so is anything that acts like it."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ImageFiles:
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
            image.copy_(self.decode(self.paths[index]))
        return images

    def select(self, indices: Tensor) -> "ImageFiles":
        """The images at `indices`, still in their files."""
        return ImageFiles([self.paths[index] for index in indices.tolist()], self.size)

    def decode(self, path: Path) -> Tensor:
        """One image as uint8 [3, size, size].

        Raises:
            DataError: if the file is no readable image.
        """
        with _readable(path) as image:
            return pixels(image, self.shape[1:])

    def probe(self, path: Path) -> None:
        """Reads the header only: quick, and finds what is no image at all, but not a damaged picture.

        Raises:
            DataError: if the file is no readable image.
        """
        with _readable(path):
            pass


def pixels(image: Any, shape: Sequence[int]) -> Tensor:
    """A Pillow image as bytes: in grey or colour, shrunk or enlarged to fill the frame, centre kept.

    Args:
        image: any mode and size.
        shape: 1 or 3 channels, height, width.
    Returns:
        uint8 of that shape.
    """
    import numpy
    from PIL import Image, ImageOps

    channels, height, width = shape
    filled = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(numpy.array(filled)).view(height, width, channels).permute(2, 0, 1)


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    # Given damaged bytes, Pillow's decoders raise nearly anything (OSError, SyntaxError, struct.error, …).
    except Exception as error:
        raise DataError(f"cannot read the image '{path}': {error}; mend it or remove it") from error


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
        images: uint8 tensor [N, channels, height, width], or files of that shape.
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

    def select(self, indices: Tensor) -> "Samples":
        """The samples at `indices` (int64 or bool mask); files stay files, tensors are copied, mixtures decoded."""
        if indices.dtype == torch.bool:
            indices = indices.nonzero()[:, 0]
        images = self.images.select(indices) if isinstance(self.images, ImageFiles) else self.images[indices]
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
        device = parts[0].images.device
        parts = tuple(part.to(device) for part in parts)
        images: Images = torch.cat([part.images for part in parts])
    else:
        # Worker processes decode, and they cannot share tensors of an accelerator.
        parts = tuple(part.to(torch.device("cpu")) for part in parts)
        images = ImageParts([part.images for part in parts])
    names = set.intersection(*(set(part.extras) for part in parts))
    extras = {name: torch.cat([part.extras[name] for part in parts]) for name in sorted(names)}
    return Samples(images, torch.cat([part.targets for part in parts]), extras)
