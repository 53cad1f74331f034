"""Images and labels from a NumPy archive, whatever made it."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.errors import DataError, told, unknown

CHANNELS = (1, 3)


class Arrays(Benchmark):
    """An `.npz` file with training and test images and their labels.

    Images are bytes [N, height, width], [N, height, width, channels] or [N, channels, height, width], grey or colour
    (where both of the last two would do, channels are last). Labels are integers [N] or [N, 1], from 0 to the number
    of classes - 1, and each class has training and test images.

    Args:
        file: path of the archive, as `numpy.savez` or `numpy.savez_compressed` writes it.
        train_images: name of the array in it. The defaults are Keras's names.
        train_labels: name of the array in it.
        test_images: name of the array in it.
        test_labels: name of the array in it.
    """

    def __init__(
        self,
        file: str,
        train_images: str = "x_train",
        train_labels: str = "y_train",
        test_images: str = "x_test",
        test_labels: str = "y_test",
        augmentation: Augmentation = Augmentation(),
        **splitting,
    ):
        super().__init__(augmentation=augmentation, **splitting)
        self.file = Path(file).expanduser()
        self.parts = ((train_images, train_labels), (test_images, test_labels))

    @property
    def num_classes(self) -> int:
        return int(self._labels[0].max()) + 1

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of all images, for which only the headers of the arrays are read.

        Raises:
            DataError: if an array is missing, holds no images of bytes, or training and test images differ.
        """
        train, test = (self._shape(images) for images, _ in self.parts)
        if train != test:
            raise DataError(
                f"'{self.file}' has training images of {_sides(train)}, but test images of {_sides(test)}; "
                "all must be of one shape"
            )
        return train

    def load(self) -> tuple[Samples, Samples]:
        """All images as resident tensors.

        Raises:
            DataError: if an array is missing or not of the promised form.
        """
        _ = self.image_shape
        train, test = (
            Samples(_channels_first(torch.from_numpy(self._read(images))), targets)
            for (images, _), targets in zip(self.parts, self._labels, strict=True)
        )
        return train, test

    @cached_property
    def _labels(self) -> tuple[Tensor, Tensor]:
        """int64 [N] of the training and of the test images."""
        train, test = (self._targets(images, labels) for images, labels in self.parts)
        present = set(train.tolist())
        classes = set(range(max(present) + 1))
        for name, found in ((self.parts[0][1], present), (self.parts[1][1], set(test.tolist()))):
            if found != classes:
                few = ", ".join(map(str, sorted(found ^ classes)[:10]))
                raise DataError(
                    f"of the labels from 0 to {max(classes)}, '{name}' in '{self.file}' lacks some or has others "
                    f"({few}); labels must be 0, 1, 2, … without gaps, and each needs training and test images"
                )
        return train, test

    def _targets(self, images: str, labels: str) -> Tensor:
        count, (shape, kind) = self._header(images)[0][0], self._header(labels)
        if kind.kind not in "iu" or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
            raise DataError(
                f"'{labels}' in '{self.file}' is {kind} {list(shape)}; labels must be integers of shape [N] or [N, 1]"
            )
        if shape[0] != count or count == 0:
            raise DataError(
                f"'{self.file}' has {count} images in '{images}' and {shape[0]} labels in '{labels}'; there must be "
                "one label for each image, and at least one image"
            )
        values = torch.from_numpy(self._read(labels).astype("int64")).reshape(-1)
        if values.min() < 0:
            raise DataError(f"'{labels}' in '{self.file}' holds the label {values.min()}; labels start from 0")
        return values

    def _shape(self, name: str) -> tuple[int, int, int]:
        """Channels, height and width of the images in the array `name`."""
        shape, kind = self._header(name)
        if kind != "uint8":
            raise DataError(f"'{name}' in '{self.file}' is {kind}; images must be bytes from 0 to 255 (uint8)")
        if not (len(shape) == 3 or (len(shape) == 4 and (shape[3] in CHANNELS or shape[1] in CHANNELS))):
            raise DataError(
                f"'{name}' in '{self.file}' has the shape {list(shape)}; images must be [N, height, width], "
                "[N, height, width, channels] or [N, channels, height, width] with 1 or 3 channels"
            )
        channels, height, width = _channels_first(torch.empty(shape, device="meta")).shape[1:]
        return channels, height, width

    def _header(self, name: str) -> tuple[tuple[int, ...], Any]:
        """Shape and NumPy's dtype of the array `name`, of which no values are read."""
        from numpy.lib import format as npy

        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        with self._opened(name) as stream:
            shape, _, kind = readers[npy.read_magic(stream)](stream)
        return shape, kind

    def _read(self, name: str) -> Any:
        """The array `name`."""
        import numpy

        with self._opened(name) as stream:
            return numpy.lib.format.read_array(stream, allow_pickle=False)

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        """The array `name` as a file.

        Raises:
            DataError: if there is no such file or array, or for damage that is found while it is read.
        """
        try:
            archive = zipfile.ZipFile(self.file)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"benchmark.file is '{self.file}', which cannot be read ({told(error)}); "
                "it must be an .npz archive, as numpy.savez writes"
            ) from error
        with archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist()]
            if name not in names:
                raise DataError(f"'{self.file}' lacks images or labels: {unknown('array', name, names)}")
            try:
                with archive.open(f"{name}.npy") as stream:
                    yield stream
            except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
                raise DataError(f"cannot read the array '{name}' in '{self.file}': {told(error)}") from error


def _channels_first(images: Tensor) -> Tensor:
    """Any of the layouts as contiguous [N, channels, height, width]."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in CHANNELS:
        images = images.permute(0, 3, 1, 2)
    return images.contiguous()


def _sides(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{height} × {width} pixels and {channels} channels"
