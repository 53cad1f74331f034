"""Images in folders named after their classes."""

from functools import cached_property
from pathlib import Path

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import IMAGENET_MEAN, IMAGENET_STD, PHOTOGRAPHS, ImageFileSet, folders_in, in_folders
from cl_ac.errors import ConfigurationError, DataError


class ImageFolder(ImageFileSet):
    """Any tree `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`) of image files.

    Classes are numbered in the alphabetical order of their folders, which may be nested and linked; names that start
    with a dot are left out.

    Args:
        root: folder that holds `train` and `test`.
        classes: use only so many classes, the first of the alphabet, or those whose folders are named.
    """

    def __init__(
        self,
        root: str,
        size: int = 32,
        classes: int | list[str] | None = None,
        augmentation: Augmentation = Augmentation(mean=IMAGENET_MEAN, std=IMAGENET_STD, crop="resized", flip=True),
        **source,
    ):
        super().__init__(root, size, augmentation=augmentation, **source)
        self.classes = classes
        if classes is not None and (classes < 1 if isinstance(classes, int) else not classes):
            raise ConfigurationError(f"benchmark.classes is {classes}; it must be at least 1, or names of folders")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label.

        Raises:
            DataError: if folders are missing or differ between training and test images.
        """
        train, test = (set(folders_in(part)) for part in self._parts)
        if not train:
            raise DataError(f"'{self._parts[0]}' holds no folders; it needs one for each class")
        if train != test:
            few = ", ".join(f"'{name}'" for name in sorted(train ^ test)[:10])
            raise DataError(
                f"{len(train ^ test)} classes are in only one of '{self._parts[0]}' and '{self._parts[1]}': {few}"
            )
        if self.classes is None:
            return sorted(train)
        if isinstance(self.classes, int):
            if self.classes > len(train):
                raise DataError(f"benchmark.classes is {self.classes}, but '{self._parts[0]}' holds {len(train)}")
            return sorted(train)[: self.classes]
        unknown = sorted(set(self.classes) - train)
        if unknown:
            raise DataError(f"benchmark.classes names '{unknown[0]}', which is no folder in '{self._parts[0]}'")
        return sorted(set(self.classes))

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
        train, test = (self.listed(in_folders(part, self.class_names)) for part in self._parts)
        return train, test


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
        augmentation: Augmentation = PHOTOGRAPHS,
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
