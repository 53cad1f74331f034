"""Handwritten digits that come with scikit-learn: 1,797 images of 8 × 8 pixels, no download."""

import torch
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
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
        targets = torch.from_numpy(digits.target).long()
        samples = Samples(images, targets)
        rank = one_hot(targets).cumsum(0).gather(1, targets[:, None])[:, 0]  # 1 for the first image of a class
        test = rank % 5 == 0
        return samples.select(~test), samples.select(test)
