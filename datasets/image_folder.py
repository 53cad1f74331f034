"""Images in folders named after their classes."""

import mimetypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.available import available_bytes
from cl_ac.data.decoding import readable, square
from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.errors import DataError

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


class ImageFolder(Benchmark):
    """Any tree `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`) of image files.

    Classes are numbered in the alphabetical order of their folders, which may be nested and linked; names that start
    with a dot are left out. Images become upright RGB, on white where they are transparent, their shorter side is
    resized to `size` and the central square is kept.

    Args:
        root: folder that holds `train` and `test`.
        size: side in pixels of the images kept; `augmentation.size` is the side of what the network sees.
        in_memory: whether all images are decoded once and kept as one tensor; otherwise they are decoded each time
            they are used. None decides by size: up to 4 GiB (3 · size² bytes per image) are kept if memory has room.
    """

    def __init__(
        self,
        root: str,
        size: int = 32,
        in_memory: bool | None = None,
        augmentation: Augmentation = Augmentation(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="resized", flip=True),
        **splitting,
    ):
        super().__init__(augmentation=augmentation, **splitting)
        self.root, self.size, self.in_memory = Path(root).expanduser(), size, in_memory
        self.image_shape = (3, size, size)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label.

        Raises:
            DataError: if folders are missing or differ between training and test images.
        """
        train, test = (
            {folder.name for folder in part.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
            for part in self._parts
        )
        if not train:
            raise DataError(f"'{self._parts[0]}' holds no folders; it needs one for each class")
        if train != test:
            few = ", ".join(f"'{name}'" for name in sorted(train ^ test)[:10])
            raise DataError(
                f"{len(train ^ test)} classes are in only one of '{self._parts[0]}' and '{self._parts[1]}': {few}"
            )
        return sorted(train)

    @cached_property
    def _parts(self) -> tuple[Path, Path]:
        train = self.root / "train"
        test = next((self.root / name for name in ("test", "val") if (self.root / name).is_dir()), None)
        if not train.is_dir() or test is None:
            raise DataError(
                f"'{self.root}' is no folder of images: it needs train/<class>/* and test/<class>/* (or val/<class>/*)"
            )
        return train, test

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read.

        Raises:
            DataError: if a class has no images, or one that cannot be read by its name.
        """
        return self._list(self._parts[0]), self._list(self._parts[1])

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
        if not self._fits(torch.Size(files.shape).numel()):
            _for_each(files.paths, lambda index, path: _probe(path))
            return list(parts)
        images = torch.empty(files.shape, dtype=torch.uint8)
        _for_each(files.paths, lambda index, path: images[index].copy_(square(path, self.size)))
        ends = torch.tensor([0, *map(len, parts)]).cumsum(0).tolist()
        return [
            Samples(images[start:end], part.targets) for part, (start, end) in zip(parts, pairwise(ends), strict=True)
        ]

    def _fits(self, needed: int) -> bool:
        """Whether images of `needed` bytes are kept in memory."""
        free = available_bytes()
        has_room = free is None or needed + WORKING_BYTES <= free
        if self.in_memory and not has_room:
            raise DataError(
                f"benchmark.in_memory is true, but the images take {needed / 2**30:.2f} GiB and training "
                f"{WORKING_BYTES / 2**30:g} more, and {free / 2**30:.2f} GiB of memory are free; set it to false, or "
                "lower benchmark.size or benchmark.samples_per_class"
            )
        return has_room and needed <= RESIDENT_BYTES if self.in_memory is None else self.in_memory

    def _list(self, part: Path) -> Samples:
        """The image files of all classes with their labels."""
        paths, counts = [], []
        for name in self.class_names:
            found = sorted(_pictures(part / name))
            if not found:
                raise DataError(f"'{part / name}' holds no images ({', '.join(sorted(EXTENSIONS))})")
            paths += found
            counts.append(len(found))
        targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return Samples(ImageFiles(paths, self.size), targets)


def _pictures(folder: Path) -> Iterator[Path]:
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


# fmt: off
IMAGENET_100 = [
    "n03710193", "n03089624", "n04152593", "n01806567", "n02107574", "n04409515", "n04599235", "n03657121",
    "n03942813", "n04026417", "n02640242", "n04591157", "n01689811", "n07614500", "n03085013", "n01882714",
    "n02112706", "n04266014", "n02786058", "n02526121", "n03141823", "n03775071", "n04074963", "n01531178",
    "n04428191", "n02096177", "n02091467", "n02971356", "n02116738", "n03017168", "n02002556", "n04355933",
    "n02840245", "n04371430", "n01774384", "n03223299", "n04399382", "n02088094", "n02033041", "n02814860",
    "n04604644", "n02669723", "n03884397", "n03250847", "n04153751", "n03016953", "n02101388", "n01914609",
    "n02128385", "n03075370", "n02363005", "n09468604", "n02011460", "n03785016", "n12267677", "n12768682",
    "n12620546", "n01537544", "n03532672", "n03691459", "n02749479", "n02105056", "n02279972", "n04442312",
    "n02107908", "n02229544", "n04525305", "n02102318", "n15075141", "n01514668", "n04550184", "n02115913",
    "n02094258", "n07892512", "n01984695", "n01990800", "n02948072", "n02112137", "n02123597", "n02917067",
    "n03485407", "n03759954", "n02280649", "n03290653", "n01775062", "n03527444", "n03967562", "n01744401",
    "n02128757", "n01729322", "n03000247", "n02950826", "n03891332", "n07831146", "n02536864", "n03697007",
    "n02120079", "n02951585", "n03109150", "n02168699",
]
# fmt: on


class ImageNet100(ImageFolder):
    """The 100 classes of ImageNet used in class-incremental learning, stored at 256 and seen at 224 pixels.

    Folders are named by WordNet ids. The published order is the one of the papers on auxiliary classifiers, whose
    subset of ImageNet is called "seed 1993".
    """

    published_order = tuple(sorted(IMAGENET_100).index(name) for name in IMAGENET_100)

    def __init__(
        self,
        root: str,
        size: int = 256,
        augmentation: Augmentation = Augmentation(
            mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="resized", flip=True, size=224
        ),
        **source,
    ):
        super().__init__(root, size, augmentation=augmentation, **source)

    @cached_property
    def class_names(self) -> list[str]:
        names = super().class_names
        if names != sorted(IMAGENET_100):
            raise DataError(
                f"the folders in '{self.root}' are not the 100 classes of ImageNet-100; "
                "use ImageFolder for other sets of classes"
            )
        return names
