"""CORe50: objects held in a hand, filmed in eleven sessions."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import IMAGENET_MEAN, IMAGENET_STD, ImageFileSet, in_folders
from cl_ac.errors import DataError

SESSIONS = range(1, 12)
TEST_SESSIONS = (3, 7, 10)
CATEGORIES = (
    *("plug adapter", "mobile phone", "scissors", "light bulb", "can"),
    *("glasses", "ball", "marker", "cup", "remote control"),
)


class CORe50(ImageFileSet):
    """CORe50 (Lomonaco & Maltoni, 2017): 119,894 + 44,972 frames of 50 objects, 128 × 128 pixels.

    Test images are the sessions 3, 7 and 10, as in all its protocols; each other session is a domain. Frames that
    follow each other hardly differ, so held-out images say little about new ones.

    Args:
        root: folder that holds `core50_128x128` (or `core50_32x32`, which is read for a `size` of at most 32), with
            frames in `s<session>/o<object>`.
        level: whether each `object` is a class, or each `category` of five objects.
    """

    domain_names = tuple(f"session {session}" for session in SESSIONS if session not in TEST_SESSIONS)

    def __init__(
        self,
        root: str = "~/data",
        level: Literal["object", "category"] = "object",
        size: int = 128,
        augmentation: Augmentation = Augmentation(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="resized", flip=True),
        **source,
    ):
        super().__init__(root, size, augmentation=augmentation, **source)
        self.level = level

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label."""
        if self.level == "category":
            return list(CATEGORIES)
        return [f"{name} {number}" for name in CATEGORIES for number in range(1, 6)]

    def list_samples(self) -> tuple[Samples, Samples]:
        """All frames as files, of which nothing is read; `domain` is the place of the session in `domain_names`.

        Test frames are of no domain.

        Raises:
            DataError: if folders or frames are missing.
        """
        train: list[tuple[Path, int]] = []
        test: list[tuple[Path, int]] = []
        domains: list[int] = []
        for session in SESSIONS:
            frames = list(self._frames(session))
            if session in TEST_SESSIONS:
                test += frames
            else:
                train += frames
                domains += [self.domain_names.index(f"session {session}")] * len(frames)
        return self.listed(train, {"domain": torch.tensor(domains)}), self.listed(test)

    def _frames(self, session: int) -> Iterator[tuple[Path, int]]:
        place = self.root / ("core50_32x32" if self.size <= 32 else "core50_128x128")
        folder = place / f"s{session}"
        names = [f"o{number}" for number in range(1, 51)]
        if missing := [name for name in names if not (folder / name).is_dir()]:
            raise DataError(
                f"there is no CORe50 at '{place}', which lacks s{session}/{missing[0]}; unpack "
                f"http://bias.csr.unibo.it/maltoni/download/core50/{place.name}.zip there, or say with "
                "--benchmark.root where it is"
            )
        objects = 5 if self.level == "category" else 1
        yield from ((path, label // objects) for path, label in in_folders(folder, names))
