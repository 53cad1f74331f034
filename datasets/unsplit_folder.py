"""Folders of images that nobody has split into parts: ImageNet-R, ImageNet-A, RESISC45, your own."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import torch

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import ImageFiles, Samples
from cl_ac.datasets.image_files import PHOTOGRAPHS, ImageFileSet, drawn_apart, folders_in, in_folders, lines
from cl_ac.errors import ConfigurationError, DataError


class UnsplitFolder(ImageFileSet):
    """Any tree `<class>/*` of image files, split into training and test images here.

    Classes are numbered in the alphabetical order of their folders, as in an `ImageFolder`.

    Args:
        root: folder that holds one folder for each class.
        test_share: share of each class's images that are test images; which ones depends on their number alone, so that
            they are the same for every seed and on every machine.
        test_list: a file that lists the test images instead, one a line as `class/name` (what stands before these, or
            behind a space, is ignored), for splits that others have published.
    """

    def __init__(
        self,
        root: str,
        test_share: float = 0.2,
        test_list: str | None = None,
        augmentation: Augmentation = PHOTOGRAPHS,
        **source,
    ):
        super().__init__(root, augmentation=augmentation, **source)
        if not 0 < test_share < 1:
            raise ConfigurationError(f"benchmark.test_share is {test_share:g}; it must be above 0 and below 1")
        self.test_share = test_share
        self.test_list = None if test_list is None else Path(test_list).expanduser()

    @property
    def place(self) -> Path:
        """The folder that holds the classes."""
        return self.root

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label.

        Raises:
            DataError: if there is no such folder, or none in it.
        """
        names = folders_in(self.place) if self.place.is_dir() else []
        if not names:
            raise DataError(f"'{self.place}' is no folder of images: it needs <class>/* for each class")
        return names

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read.

        Raises:
            DataError: if a class has no images to train or to test on, or the list names one that is not there.
        """
        samples = self.listed(in_folders(self.place, self.class_names))
        parts = drawn_apart(samples, self.test_share) if self.test_list is None else self._told_apart(samples)
        for label, name in enumerate(self.class_names):
            counts = [int((part.targets == label).sum()) for part in parts]
            if 0 in counts:
                raise DataError(
                    f"'{self.place / name}' has {counts[0]} training and {counts[1]} test images; "
                    "each class needs at least one of both"
                )
        return parts

    def _told_apart(self, samples: Samples) -> tuple[Samples, Samples]:
        """The split that the list tells."""
        test_list = cast(Path, self.test_list)
        listed = {_place(Path(words[0])): number for number, words in lines(test_list, 1)}
        places = [_place(path) for path in cast(ImageFiles, samples.images).paths]
        if strangers := listed.keys() - set(places):
            first = min(strangers, key=listed.__getitem__)
            raise DataError(
                f"{len(strangers)} of {len(listed)} images of benchmark.test_list '{test_list}' are not in "
                f"'{self.place}', such as '{'/'.join(first)}' on line {listed[first]}"
            )
        is_test = torch.tensor([place in listed for place in places])
        return samples.select(~is_test), samples.select(is_test)


class NamedFolder(UnsplitFolder):
    """A data set without a split that has a folder of its own under `root`.

    Args:
        root: folder that holds the data set's own.
    """

    stored_as: ClassVar[str]

    def __init__(self, root: str = "~/data", augmentation: Augmentation = PHOTOGRAPHS, **source):
        super().__init__(root, augmentation=augmentation, **source)

    @property
    @abstractmethod
    def archive(self) -> str:
        """What is to be unpacked."""

    @property
    def place(self) -> Path:
        place = self.root / self.stored_as
        if not place.is_dir():
            raise DataError(
                f"there is no {type(self).__name__} at '{place}'; unpack {self.archive} there, or say with "
                "--benchmark.root where it is"
            )
        return place


class ImageNetR(NamedFolder):
    """ImageNet-R (Hendrycks et al., 2021): 30,000 renditions of 200 classes of ImageNet.

    It has no official split. That of L2P (24,000 + 6,000 images) is a list that its ports carry, and `test_list` reads.
    Accuracies on a split that was drawn here are not comparable with those on that.
    """

    stored_as = "imagenet-r"
    archive = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar"


class ImageNetA(NamedFolder):
    """ImageNet-A (Hendrycks et al., 2021): 7,500 photographs that networks get wrong, of 200 classes of ImageNet.

    It has no official split. That of PILOT comes as folders, which an `ImageFolder` reads; accuracies on a split that
    was drawn here are not comparable with it.
    """

    stored_as = "imagenet-a"
    archive = "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar"


class RESISC45(NamedFolder):
    """NWPU-RESISC45 (Cheng et al., 2017): 31,500 satellite images of 256 × 256 pixels, 45 classes.

    It has no official split: a fifth of each class, the same for every seed, are test images.
    """

    stored_as = "NWPU-RESISC45"
    archive = "NWPU-RESISC45.rar (https://arxiv.org/abs/1703.00121 tells where it is)"


def _place(path: Path) -> tuple[str, ...]:
    """The names of an image's folder and file."""
    return path.parts[-2:]
