"""Small images that torchvision reads and downloads: CIFAR-10 and -100, MNIST and its like, SVHN."""

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.datasets.torchvision_reader import TorchvisionReader
from cl_ac.streams.domain_incremental import PermutedPixels, RotatedImages

# The labels of CIFAR-100 in each of its twenty superclasses, from aquatic mammals to vehicles of the second kind.
SUPERCLASSES = (
    *((4, 30, 55, 72, 95), (1, 32, 67, 73, 91), (54, 62, 70, 82, 92), (9, 10, 16, 28, 61)),
    *((0, 51, 53, 57, 83), (22, 39, 40, 86, 87), (5, 20, 25, 84, 94), (6, 7, 14, 18, 24)),
    *((3, 42, 43, 88, 97), (12, 17, 37, 68, 76), (23, 33, 49, 60, 71), (15, 19, 21, 31, 38)),
    *((34, 63, 64, 66, 75), (26, 45, 77, 79, 99), (2, 11, 35, 46, 98), (27, 29, 44, 78, 93)),
    *((36, 50, 65, 74, 80), (47, 52, 56, 59, 96), (8, 13, 48, 58, 90), (41, 69, 81, 85, 89)),
)


class TorchvisionSet(TorchvisionReader, Benchmark):
    """A data set that one of torchvision's classes reads into memory.

    Args:
        root: folder that holds the data set.
        download: whether to download the data set if it is not there.
    """

    def __init__(self, root: str = "~/data", download: bool = False, **splitting):
        super().__init__(**splitting)
        self.root, self.download = Path(root).expanduser(), download

    def load(self) -> tuple[Samples, Samples]:
        """All images as resident tensors.

        Raises:
            DataError: if the data set is missing or damaged.
        """
        return self.read(train=True), self.read(train=False)

    def read(self, train: bool) -> Samples:
        """The training or the test images."""
        source = self.open(train=train)
        channels, height, width = self.image_shape
        images = torch.as_tensor(source.data).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        return Samples(images.contiguous(), torch.as_tensor(source.targets))


class CIFAR10(TorchvisionSet):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 colour images of 32 × 32 pixels, 10 classes."""

    reader, stored_as = "CIFAR10", "cifar-10-batches-py"
    num_classes = 10
    image_shape = (3, 32, 32)
    # Truck for automobile, bird for airplane, deer for horse, cat and dog for each other (Patrini et al., 2017).
    mistaken: ClassVar = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(
            mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), crop="shift", padding=4, flip=True
        ),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)


class CIFAR100(TorchvisionSet):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images of 32 × 32 pixels, 100 classes.

    The published order is that of iCaRL (Rebuffi et al., 2017), NumPy's legacy shuffle with seed 1993. The default
    augmentation is that of the papers on auxiliary classifiers: a random resized crop of the padded image.
    """

    reader, stored_as = "CIFAR100", "cifar-100-python"
    num_classes = 100
    image_shape = (3, 32, 32)
    superclasses: ClassVar = SUPERCLASSES
    # The next class of the same superclass (Patrini et al., 2017).
    mistaken: ClassVar = {label: group[(place + 1) % 5] for group in SUPERCLASSES for place, label in enumerate(group)}
    # fmt: off
    published_order = (
        68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85,
        19, 17, 50, 28, 53, 13, 81, 45, 82, 6, 59, 83, 16, 15, 44, 91, 41, 72, 60, 79, 52, 20, 10, 31, 54,
        37, 95, 14, 71, 96, 98, 97, 2, 64, 66, 42, 22, 35, 86, 24, 34, 87, 21, 99, 0, 88, 27, 18, 94, 11,
        12, 47, 25, 30, 46, 62, 69, 36, 61, 7, 63, 75, 5, 32, 4, 51, 48, 73, 93, 39, 67, 29, 49, 57, 33,
    )
    # fmt: on

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(
            mean=(0.5071, 0.4866, 0.4409), std=(0.2009, 0.1984, 0.2023), crop="resized", padding=4, flip=True
        ),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)


class MNIST(TorchvisionSet):
    """MNIST (LeCun et al., 1998): 60,000 + 10,000 handwritten digits of 28 × 28 pixels."""

    reader, stored_as = "MNIST", "MNIST/raw"
    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(mean=(0.1307,), std=(0.3081,), crop="shift", padding=2),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)


class PermutedMNIST(MNIST):
    """MNIST in domains, in each of which the pixels of all images change places (Goodfellow et al., 2013).

    It is `MNIST` with the stream `PermutedPixels`, unless another is given. Nothing is shifted: neighbours are none.

    Args:
        tasks: number of domains.
    """

    def __init__(
        self,
        tasks: int = 10,
        augmentation: Augmentation = Augmentation(mean=(0.1307,), std=(0.3081,)),
        **source,
    ):
        super().__init__(tasks=tasks, augmentation=augmentation, **source)
        self.stream = PermutedPixels()


class RotatedMNIST(MNIST):
    """MNIST in domains, in each of which images are turned by another angle below 180° (Lopez-Paz & Ranzato, 2017).

    It is `MNIST` with the stream `RotatedImages`, whose angles are drawn from equal ranges, unless another is given.

    Args:
        tasks: number of domains.
    """

    def __init__(
        self,
        tasks: int = 20,
        augmentation: Augmentation = Augmentation(mean=(0.1307,), std=(0.3081,), crop="shift", padding=2),
        **source,
    ):
        super().__init__(tasks=tasks, augmentation=augmentation, **source)
        self.stream = RotatedImages(angles="ranges")


class FashionMNIST(TorchvisionSet):
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey images of clothes, 28 × 28 pixels, 10 classes."""

    reader, stored_as = "FashionMNIST", "FashionMNIST/raw"
    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(mean=(0.2860,), std=(0.3530,), crop="shift", padding=2, flip=True),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)


class KMNIST(TorchvisionSet):
    """Kuzushiji-MNIST (Clanuwat et al., 2018): 60,000 + 10,000 cursive Japanese characters of 28 × 28 pixels."""

    reader, stored_as = "KMNIST", "KMNIST/raw"
    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(mean=(0.1918,), std=(0.3483,), crop="shift", padding=2),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)


class EMNIST(TorchvisionSet):
    """EMNIST (Cohen et al., 2017): handwritten letters and digits of 28 × 28 pixels, turned upright.

    Args:
        split: which of its sets: `balanced` has 112,800 + 18,800 images of 47 classes, `letters` 26 classes,
            `byclass` 62 and `bymerge` 47 of unequal sizes, `digits` and `mnist` 10.
    """

    reader, stored_as = "EMNIST", "EMNIST/raw"
    image_shape = (1, 28, 28)
    classes: ClassVar = {"balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10}

    def __init__(
        self,
        split: Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"] = "balanced",
        augmentation: Augmentation = Augmentation(mean=(0.1751,), std=(0.3332,), crop="shift", padding=2),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)
        self.split = split

    @property
    def num_classes(self) -> int:
        return self.classes[self.split]

    def open(self, **part: Any) -> Any:
        return super().open(split=self.split, **part)

    def read(self, train: bool) -> Samples:
        samples = super().read(train)
        # The files hold images transposed, and number letters from 1.
        upright = cast(Tensor, samples.images).transpose(2, 3).contiguous()
        return Samples(upright, samples.targets - int(self.split == "letters"))


class SVHN(TorchvisionSet):
    """Street View House Numbers (Netzer et al., 2011): 73,257 + 26,032 colour images of digits, 32 × 32 pixels."""

    reader, stored_as = "SVHN", "train_32x32.mat"
    num_classes = 10
    image_shape = (3, 32, 32)

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(
            mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970), crop="shift", padding=4
        ),
        **source,
    ):
        super().__init__(augmentation=augmentation, **source)

    def read(self, train: bool) -> Samples:
        source = self.open(split="train" if train else "test")
        return Samples(torch.as_tensor(source.data).contiguous(), torch.as_tensor(source.labels))
