"""Handwritten digits that come with scikit-learn: 1,797 images of 8 × 8 pixels, no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples


class Digits(Benchmark):
    """scikit-learn's digits (Alpaydin & Kaynak, 1998), 10 classes, 8 × 8 grey images.

    Every fifth image of a class is a test image: each class has 140 to 147 training and 34 to 36 test images.
    """

    num_classes = 10
    image_shape = (1, 8, 8)

    def __init__(
        self,
        augmentation: Augmentation = Augmentation(mean=(0.305,), std=(0.376,), crop="shift", padding=1),
        **splitting,
    ):
        super().__init__(augmentation=augmentation, **splitting)

    def load(self) -> tuple[Samples, Samples]:
        pixels, targets = stored_digits()
        images = (pixels * 255 / 16).round().to(torch.uint8)[:, None]
        samples = Samples(images, targets)
        rank = one_hot(targets).cumsum(0).gather(1, targets[:, None])[:, 0]  # 1 for the first image of a class
        test = rank % 5 == 0
        return samples.select(~test), samples.select(test)


def stored_digits() -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 16, float64 [N, 8, 8], and classes, int64 [N], in the order of scikit-learn's file.

    The file is read where it lies: scikit-learn, which takes longer to import than the first task of these digits to
    train, is imported only if it keeps it elsewhere.
    """
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if file is not None and file.is_file():
        rows = numpy.loadtxt(file, delimiter=",")
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        rows = numpy.column_stack([digits.data, digits.target])
    table = torch.from_numpy(rows)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].long()
