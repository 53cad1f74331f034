"""Photographs of several sizes that torchvision finds and downloads: flowers, food, pets, textures, signs, vehicles."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import IMAGENET_MEAN, IMAGENET_STD, PHOTOGRAPHS, ImageFileSet, drawn_apart
from cl_ac.datasets.torchvision_reader import TorchvisionReader


class TorchvisionFiles(TorchvisionReader, ImageFileSet):
    """A data set whose image files one of torchvision's classes lists.

    Args:
        root: folder that holds the data set.
        download: whether to download the data set if it is not there.
    """

    # What torchvision's class is asked for: the parts of the data set that are trained and tested on.
    training: ClassVar[Sequence[Mapping[str, Any]]] = ({"split": "train"},)
    testing: ClassVar[Sequence[Mapping[str, Any]]] = ({"split": "test"},)

    def __init__(
        self, root: str = "~/data", download: bool = False, augmentation: Augmentation = PHOTOGRAPHS, **source
    ):
        super().__init__(root, augmentation=augmentation, **source)
        self.download = download

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images as files, of which nothing is read.

        Raises:
            DataError: if the data set is missing or damaged.
        """
        train, test = (
            self.listed(pair for part in parts for pair in _files(self.open(**part)))
            for parts in (self.training, self.testing)
        )
        return train, test


def _files(source: Any) -> Iterator[tuple[Path, int]]:
    """Paths and labels: torchvision's classes keep them under one of these names, and not all tell them otherwise."""
    held = vars(source)
    pairs = held.get("_samples", held.get("samples"))
    if pairs is None:
        pairs = zip(held["_images" if "_images" in held else "_image_files"], held["_labels"], strict=True)
    yield from ((Path(path), int(label)) for path, label in pairs)


class Flowers102(TorchvisionFiles):
    """Oxford Flowers (Nilsback & Zisserman, 2008): 2,040 (training and validation) + 6,149 photographs, 102 classes."""

    reader, stored_as = "Flowers102", "flowers-102"
    num_classes = 102
    training = ({"split": "train"}, {"split": "val"})


class Food101(TorchvisionFiles):
    """Food-101 (Bossard et al., 2014): 75,750 + 25,250 photographs, 101 classes."""

    reader, stored_as = "Food101", "food-101"
    num_classes = 101


class OxfordPets(TorchvisionFiles):
    """Oxford-IIIT Pets (Parkhi et al., 2012): 3,680 (training and validation) + 3,669 photographs, 37 breeds."""

    reader, stored_as = "OxfordIIITPet", "oxford-iiit-pet"
    num_classes = 37
    training = ({"split": "trainval"},)


class DTD(TorchvisionFiles):
    """Describable Textures (Cimpoi et al., 2014): 3,760 (training and validation) + 1,880 images, 47 classes.

    Of its ten partitions, the first.
    """

    reader, stored_as = "DTD", "dtd/dtd"
    num_classes = 47
    training = ({"split": "train"}, {"split": "val"})


class FGVCAircraft(TorchvisionFiles):
    """FGVC-Aircraft (Maji et al., 2013): 6,667 (training and validation) + 3,333 photographs, 100 variants.

    The line of text at the bottom of each photograph is left where it is.
    """

    reader, stored_as = "FGVCAircraft", "fgvc-aircraft-2013b"
    num_classes = 100
    training = ({"split": "trainval"},)


class StanfordCars(TorchvisionFiles):
    """Stanford Cars (Krause et al., 2013): 8,144 + 8,041 photographs, 196 classes."""

    reader, stored_as = "StanfordCars", "stanford_cars"
    obtained = (
        "its site is gone: put cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat of a copy there"
    )
    num_classes = 196


class GTSRB(TorchvisionFiles):
    """German traffic signs (Stallkamp et al., 2012): 26,640 + 12,630 photographs at 32 pixels, 43 classes."""

    reader, stored_as = "GTSRB", "gtsrb"
    num_classes = 43

    def __init__(
        self,
        size: int = 32,
        # Many signs are the mirror images of others.
        augmentation: Augmentation = Augmentation(
            mean=(0.3403, 0.3121, 0.3214), std=(0.2724, 0.2608, 0.2669), crop="shift", padding=4
        ),
        **source,
    ):
        super().__init__(size=size, augmentation=augmentation, **source)


class EuroSAT(TorchvisionFiles):
    """EuroSAT (Helber et al., 2019): 27,000 colour satellite images of 64 × 64 pixels, 10 classes.

    It has no official split: a fifth of each class, the same for every seed, are test images.
    """

    reader, stored_as = "EuroSAT", "eurosat/2750"
    num_classes = 10

    def __init__(
        self,
        size: int = 64,
        augmentation: Augmentation = Augmentation(
            mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="shift", padding=8, flip=True
        ),
        **source,
    ):
        super().__init__(size=size, augmentation=augmentation, **source)

    def list_samples(self) -> tuple[Samples, Samples]:
        # torchvision lists files as the file system does.
        return drawn_apart(self.listed(sorted(_files(self.open()))), share=0.2)


class SUN397(TorchvisionFiles):
    """SUN397 (Xiao et al., 2010): 108,754 photographs of 397 kinds of places.

    Of its ten official partitions, which use 100 images of each class, none comes with it: a fifth of each class, the
    same for every seed, are test images.
    """

    reader, stored_as = "SUN397", "SUN397"
    num_classes = 397

    def list_samples(self) -> tuple[Samples, Samples]:
        # torchvision lists files as the file system does.
        return drawn_apart(self.listed(sorted(_files(self.open()))), share=0.2)
