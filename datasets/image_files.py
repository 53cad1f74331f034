"""Data sets of image files: decoded once where memory has room, else each time they are used."""

import mimetypes
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.available import available_bytes
from cl_ac.data.decoding import readable, square
from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.data.seeding import generator
from cl_ac.errors import DataError, told

# The raster formats that Pillow reads without another program.
EXTENSIONS = frozenset(
    (
        *(".apng", ".avif", ".avifs", ".bmp", ".bw", ".dds", ".dib", ".gif", ".ico", ".im", ".j2c", ".j2k", ".jfif"),
        *(".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png"),
        *(".pnm", ".ppm", ".psd", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".webp", ".xbm"),
        ".xpm",
    )
)
# What pictures end with, by Pillow's name of the format, and where it is looked for: in so many bytes.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}
TAIL = 64
RESIDENT_BYTES = 4 * 2**30
# What training takes beside the images, at the least.
WORKING_BYTES = 2**29
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# What networks pretrained on ImageNet have seen.
PHOTOGRAPHS = Augmentation(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="resized", flip=True, size=224)


class ImageFileSet(Benchmark):
    """Images in files of any sizes; a subclass lists them in `list_samples`.

    Images become upright RGB, on white where they are transparent, their shorter side is resized to `size` and the
    central square is kept.

    Args:
        root: folder that holds the data set.
        size: side in pixels of the images kept; `augmentation.size` is the side of what the network sees.
        in_memory: whether all images are decoded once and kept as one tensor; otherwise they are decoded each time
            they are used. None decides by size: up to 4 GiB (3 · size² bytes per image) are kept if memory has room.
    """

    def __init__(self, root: str, size: int = 256, in_memory: bool | None = None, **splitting):
        super().__init__(**splitting)
        self.root, self.size, self.in_memory = Path(root).expanduser(), size, in_memory
        self.image_shape = (3, size, size)

    @abstractmethod
    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read."""

    def listed(self, files: Iterable[tuple[str | Path, int]], extras: Mapping[str, Tensor] | None = None) -> Samples:
        """Files with their labels as samples."""
        pairs = list(files)
        images = ImageFiles([Path(path) for path, _ in pairs], self.size)
        return Samples(images, torch.tensor([label for _, label in pairs]), extras or {})

    def load(self) -> tuple[Samples, Samples]:
        train, test = self.keep(self.list_samples())
        return train, test

    def keep(self, parts: Sequence[Samples]) -> list[Samples]:
        """The same samples, decoded into one tensor where memory has room for them.

        Raises:
            DataError: naming every file that is no readable image, or if memory has no room. Of images that are not
                kept in memory only headers and ends are read here, which tells those that were cut short; a picture
                that is damaged in between is named when it is first used.
        """
        files = ImageFiles([path for part in parts for path in cast(ImageFiles, part.images).paths], self.size)
        if not fits(torch.Size(files.shape).numel(), self.in_memory):
            _for_each(files.paths, lambda index, path: _probe(path))
            return list(parts)
        images = decoded(files)
        ends = torch.tensor([0, *map(len, parts)]).cumsum(0).tolist()
        return [
            replace(part, images=images[start:end]) for part, (start, end) in zip(parts, pairwise(ends), strict=True)
        ]


def decoded(files: ImageFiles) -> Tensor:
    """All images of some files as one tensor: uint8 [N, 3, size, size].

    Raises:
        DataError: naming every file that is no readable image.
    """
    images = torch.empty(files.shape, dtype=torch.uint8)
    _for_each(files.paths, lambda index, path: images[index].copy_(square(path, files.size)))
    return images


def fits(needed: int, in_memory: bool | None) -> bool:
    """Whether images of `needed` bytes are kept in memory, as the option `in_memory` says.

    Raises:
        DataError: if it says so, but memory has no room for them.
    """
    free = available_bytes()
    has_room = free is None or needed + WORKING_BYTES <= free
    if in_memory and free is not None and not has_room:
        raise DataError(
            f"benchmark.in_memory is true, but the images take {needed / 2**30:.2f} GiB and training "
            f"{WORKING_BYTES / 2**30:g} more, and {free / 2**30:.2f} GiB of memory are free; set it to false, or "
            "lower benchmark.size or benchmark.samples_per_class"
        )
    return has_room and needed <= RESIDENT_BYTES if in_memory is None else in_memory


def drawn_apart(samples: Samples, share: float) -> tuple[Samples, Samples]:
    """A split of samples that have none: `share` of each class, at least one image, become test samples.

    It depends on the number of images of each class alone.
    """
    is_test = torch.zeros(len(samples), dtype=torch.bool)
    for target in samples.targets.unique().tolist():
        members = (samples.targets == target).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator(0, "split of the data set", target))
        is_test[members[order[: max(round(share * len(members)), 1)]]] = True
    return samples.select(~is_test), samples.select(is_test)


def lines(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """The words of each line of a list that comes with a data set, with the line's number; empty lines are left out.

    Raises:
        DataError: if the list cannot be read, or a line has fewer than `columns` words.
    """
    try:
        texts = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read '{path}': {told(error)}") from error
    for number, text in enumerate(texts, 1):
        words = text.split()
        if 0 < len(words) < columns:
            raise DataError(f"line {number} of '{path}' is '{text[:80]}'; it must have at least {columns} words")
        if words:
            yield number, words


def folders_in(place: Path) -> list[str]:
    """The names of the folders in `place` in alphabetical order; those that start with a dot are left out."""
    return sorted(each.name for each in place.iterdir() if each.is_dir() and not each.name.startswith("."))


def in_folders(place: Path, names: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """The image files in `place/<name>` for each of `names`, with the name's position as label.

    Raises:
        DataError: if there are none for a name, or an image of a kind that cannot be read.
    """
    for label, name in enumerate(names):
        found = sorted(pictures(place / name))
        if not found:
            raise DataError(f"'{place / name}' holds no images ({', '.join(sorted(EXTENSIONS))})")
        yield from ((path, label) for path in found)


def pictures(folder: Path) -> Iterator[Path]:
    """The image files at any depth, through links too; what is hidden is left out, and so are files of other kinds.

    Raises:
        DataError: for an image of a kind that cannot be read.
    """
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        # A link may lead back to a folder above it.
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        for name in files:
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() in EXTENSIONS:
                yield path
            elif (mimetypes.guess_type(name, strict=False)[0] or "").startswith("image/"):
                raise DataError(f"'{path}' is an image of a kind that cannot be read; convert it or remove it")


def _probe(path: Path) -> None:
    """Reads the header and the last bytes: quick, and finds what is no image or was cut short, but no other damage.

    Raises:
        DataError: for what it finds.
    """
    with readable(path) as image:
        end = ENDS.get(image.format or "")
    if end is not None:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            is_whole = end in file.read()
        if not is_whole:
            square(path, 1)  # other data may follow the picture: decoding it tells


def _for_each(paths: Sequence[Path], read: Callable[[int, Path], object], chunk: int = 256) -> None:
    """Calls `read` with every index and path, on threads; raises one `DataError` for all of those that it raises."""
    count = len(paths)

    def read_chunk(start: int) -> list[str]:
        errors = []
        for index in range(start, min(start + chunk, count)):
            try:
                read(index, paths[index])
            except DataError as error:
                errors.append(str(error))
        return errors

    with ThreadPoolExecutor() as pool:
        errors = [error for part in pool.map(read_chunk, range(0, count, chunk)) for error in part]
    if len(errors) == 1:
        raise DataError(errors[0])
    if errors:
        rest = f" … and {len(errors) - 10} more" if len(errors) > 10 else ""
        raise DataError(f"{len(errors)} of {count} images cannot be read: " + "; ".join(errors[:10]) + rest)
