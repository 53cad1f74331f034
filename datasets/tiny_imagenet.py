"""Tiny ImageNet as it is unpacked: test images lie in one folder, and a file has their classes."""

from functools import cached_property
from pathlib import Path

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import ImageFileSet, folders_in, in_folders, lines
from cl_ac.errors import DataError


class TinyImageNet(ImageFileSet):
    """Tiny ImageNet (Le & Yang, 2015): 200 classes of 500 + 50 colour images of 64 × 64 pixels.

    `train/<WordNet id>/images/*` are the training images, and those of `val/val_annotations.txt` the test images, as in
    the literature: the classes of the official test images are not public. Classes are numbered in the alphabetical
    order of their WordNet ids.

    Args:
        root: folder that holds `tiny-imagenet-200`.
    """

    stored_as = "tiny-imagenet-200"

    def __init__(
        self,
        root: str = "~/data",
        size: int = 64,
        augmentation: Augmentation = Augmentation(
            mean=(0.4802, 0.4480, 0.3975), std=(0.2770, 0.2691, 0.2821), crop="shift", padding=4, flip=True
        ),
        **source,
    ):
        super().__init__(root, size, augmentation=augmentation, **source)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The WordNet id of each label.

        Raises:
            DataError: if the data set is not there.
        """
        train = self._place / "train"
        names = folders_in(train)
        if not names:
            raise DataError(f"'{train}' holds no folders; it needs one for each class")
        return names

    @property
    def _place(self) -> Path:
        place = self.root / self.stored_as
        if not (place / "train").is_dir() or not (place / "val" / "val_annotations.txt").is_file():
            raise DataError(
                f"there is no TinyImageNet at '{place}', with train/<class>/images and val/val_annotations.txt; unpack "
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip there, or say with --benchmark.root where it is"
            )
        return place

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read.

        Raises:
            DataError: if a class has no images, or a line of the annotations does not name a picture and a class.
        """
        annotations, test = self._place / "val" / "val_annotations.txt", []
        labels = {name: label for label, name in enumerate(self.class_names)}
        for number, (picture, name, *_) in lines(annotations, 2):
            if name not in labels:
                raise DataError(
                    f"line {number} of '{annotations}' has the class '{name}', which has no training images"
                )
            test.append((annotations.parent / "images" / picture, labels[name]))
        return self.listed(in_folders(self._place / "train", self.class_names)), self.listed(test)
