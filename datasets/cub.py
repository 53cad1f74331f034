"""Caltech-UCSD Birds with its official split."""

from functools import cached_property
from pathlib import Path

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import PHOTOGRAPHS, ImageFileSet, lines
from cl_ac.errors import DataError

FILES = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")


class CUB200(ImageFileSet):
    """CUB-200-2011 (Wah et al., 2011): 5,994 + 5,794 photographs of 200 species of birds.

    The split is the official one of `train_test_split.txt`. Papers on pretrained models often use a split of their own
    of about 80 : 20, whose accuracies are not comparable; in folders `train` and `test`, an `ImageFolder` reads it.

    Args:
        root: folder that holds `CUB_200_2011`.
    """

    stored_as = "CUB_200_2011"

    def __init__(self, root: str = "~/data", augmentation: Augmentation = PHOTOGRAPHS, **source):
        super().__init__(root, augmentation=augmentation, **source)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label, in the order of `classes.txt`."""
        return list(self._column("classes.txt").values())

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read.

        Raises:
            DataError: if a file of the data set is missing or does not fit the others.
        """
        labels = {number: label for label, number in enumerate(self._column("classes.txt"))}
        pictures, classes, is_training = (self._column(name) for name in FILES[1:])
        parts: tuple[list[tuple[Path, int]], ...] = ([], [])
        for number, picture in pictures.items():
            if classes.get(number) not in labels or is_training.get(number) not in ("0", "1"):
                raise DataError(
                    f"image {number} of '{self.root / self.stored_as}' has the class {classes.get(number)} and the "
                    f"part {is_training.get(number)}; it needs one of classes.txt, and 1 (training) or 0 (test)"
                )
            path = self.root / self.stored_as / "images" / picture
            parts[is_training[number] == "0"].append((path, labels[classes[number]]))
        train, test = map(self.listed, parts)
        return train, test

    def _column(self, name: str) -> dict[str, str]:
        """What follows the number on each line of a file, by number."""
        place = self.root / self.stored_as
        if missing := [each for each in FILES if not (place / each).is_file()]:
            raise DataError(
                f"there is no CUB200 at '{place}', which lacks {', '.join(missing)}; unpack CUB_200_2011.tgz of "
                "https://data.caltech.edu/records/65de6-vp158 there, or say with --benchmark.root where it is"
            )
        return {number: value for _, (number, value, *_) in lines(place / name, 2)}
