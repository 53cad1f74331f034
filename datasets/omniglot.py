"""Omniglot: twenty drawings of each character of fifty alphabets."""

from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.decoding import pixels, readable
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import drawn_apart, folders_in, in_folders
from cl_ac.datasets.torchvision_reader import TorchvisionReader
from cl_ac.errors import DataError


class Omniglot(TorchvisionReader, Benchmark):
    """Omniglot (Lake et al., 2015): characters in black on white, grey, stored at 28 × 28 pixels.

    Four of the twenty drawings of each character, the same for every seed, are test images. Characters are numbered
    alphabet by alphabet: with the numbers of characters as `classes_per_task` each alphabet is a task.

    Args:
        root: folder that holds `omniglot-py`.
        part: `background` has 964 characters of 30 alphabets, `evaluation` 659 of 20.
        size: side in pixels of the images kept; the files have 105.
        download: whether to download the data set if it is not there.
    """

    reader, stored_as = "Omniglot", "omniglot-py"

    def __init__(
        self,
        root: str = "~/data",
        part: Literal["background", "evaluation"] = "background",
        size: int = 28,
        download: bool = False,
        augmentation: Augmentation = Augmentation(mean=(0.9221,), std=(0.2681,)),
        **splitting,
    ):
        super().__init__(augmentation=augmentation, **splitting)
        self.root, self.part, self.size, self.download = Path(root).expanduser(), part, size, download
        self.image_shape = (1, size, size)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """Alphabet and character of each label.

        Raises:
            DataError: if the data set is not there.
        """
        place = self.root / self.stored_as / f"images_{self.part}"
        if self.download and not place.is_dir():
            self.open(background=self.part == "background")
        alphabets = folders_in(place) if place.is_dir() else []
        if not alphabets:
            raise DataError(
                f"there is no Omniglot at '{place}', with <alphabet>/<character>/*.png; get it with "
                "--benchmark.download true, or say with --benchmark.root where it is"
            )
        return [f"{alphabet}/{name}" for alphabet in alphabets for name in folders_in(place / alphabet)]

    def load(self) -> tuple[Samples, Samples]:
        """All drawings as resident tensors.

        Raises:
            DataError: if a character has no drawings, only one, or one that cannot be read.
        """
        files = list(in_folders(self.root / self.stored_as / f"images_{self.part}", self.class_names))
        images = torch.empty(len(files), *self.image_shape, dtype=torch.uint8)
        for image, (path, _) in zip(images, files, strict=True):
            with readable(path) as drawing:
                image.copy_(pixels(drawing, self.image_shape))
        targets = torch.tensor([label for _, label in files])
        counts = targets.bincount(minlength=self.num_classes)
        if counts.min() < 2:
            alone = self.class_names[int(counts.argmin())]
            raise DataError(f"Omniglot has one drawing of '{alone}'; each character needs one to train and one to test")
        return drawn_apart(Samples(images, targets), share=0.2)
