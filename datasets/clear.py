"""CLEAR: photographs of the same classes over ten years."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import PHOTOGRAPHS, ImageFileSet
from cl_ac.errors import DataError, told

FILES = ("labeled_metadata.json", "class_names.txt")


class CLEAR(ImageFileSet):
    """CLEAR-10 and CLEAR-100 (Lin et al., 2021): photographs in buckets that follow each other in time.

    Each bucket is a domain, with training and test images. One of the classes is `BACKGROUND`.

    Args:
        root: folder that holds `clear10` or `clear100`, with `train` and `test` as unpacked.
        version: `clear10` has 11 classes, `clear100` 101.
    """

    def __init__(
        self,
        root: str = "~/data",
        version: Literal["clear10", "clear100"] = "clear10",
        augmentation: Augmentation = PHOTOGRAPHS,
        **source,
    ):
        super().__init__(root, augmentation=augmentation, **source)
        self.version = version

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label, in the order of `class_names.txt`.

        Raises:
            DataError: if the data set is not there.
        """
        return (self._place("train") / "class_names.txt").read_text().split()

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The buckets, from the oldest to the newest."""
        return tuple(sorted(self._read(self._place("train") / "labeled_metadata.json"), key=int))

    def list_samples(self) -> tuple[Samples, Samples]:
        """All labelled images as files, of which nothing is read; `domain` is the place of each one's bucket.

        Raises:
            DataError: if a file of the data set is missing or not of the promised form.
        """
        return self._listed("train"), self._listed("test")

    def _listed(self, part: str) -> Samples:
        place = self._place(part)
        index = self._read(place / "labeled_metadata.json")
        files, domains = [], []
        for domain, bucket in enumerate(self.domain_names):
            for label, name in enumerate(self.class_names):
                found = index.get(bucket, {}).get(name)
                if not isinstance(found, str):
                    raise DataError(f"'{place / FILES[0]}' names no file of the class '{name}' in bucket {bucket}")
                for image in self._read(place / found).values():
                    if not isinstance(image, dict) or not isinstance(image.get("IMG_PATH"), str):
                        raise DataError(f"'{place / found}' has an image without its IMG_PATH")
                    files.append((place / image["IMG_PATH"], label))
                    domains.append(domain)
        return self.listed(files, {"domain": torch.tensor(domains)})

    def _place(self, part: str) -> Path:
        place = self.root / self.version / part
        if missing := [name for name in FILES if not (place / name).is_file()]:
            raise DataError(
                f"there is no {self.version} at '{place}', which lacks {', '.join(missing)}; unpack the archives "
                f"{self.version}-train-image-only.zip and {self.version}-test.zip of https://clear-benchmark.github.io "
                f"into '{place.parent}', or say with --benchmark.root where it is"
            )
        return place

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read '{path}': {told(error)}") from error
        if not isinstance(content, dict):
            raise DataError(f"'{path}' holds a {type(content).__name__}; it must be an object of names")
        return content
