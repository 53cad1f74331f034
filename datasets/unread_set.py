"""Data sets whose images are read when they are asked for, or once where memory has room."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples
from cl_ac.datasets.image_files import fits

CHUNK = 512


class UnreadSet(Benchmark):
    """A data set whose `list_samples` gives images that nobody has read yet.

    Args:
        in_memory: whether all images are read once and kept as one tensor; otherwise they are read each time they are
            used. None decides by size: up to 4 GiB are kept if memory has room.
    """

    def __init__(self, in_memory: bool | None = None, **splitting):
        super().__init__(**splitting)
        self.in_memory = in_memory

    @abstractmethod
    def list_samples(self) -> tuple[Samples, Samples]:
        """All images, of which nothing is read."""

    def load(self) -> tuple[Samples, Samples]:
        """All images, read once if memory has room for them."""
        train, test = self.keep(self.list_samples())
        return train, test

    def keep(self, parts: Sequence[Samples]) -> list[Samples]:
        """The same samples, read into one tensor where memory has room for them."""
        counts = [len(part) for part in parts]
        shape = torch.Size(self.image_shape)
        if not fits(sum(counts) * shape.numel(), self.in_memory):
            return list(parts)
        images = torch.empty(sum(counts), *shape, dtype=torch.uint8)
        ends = torch.tensor([0, *counts]).cumsum(0).tolist()
        for part, (first, _) in zip(parts, pairwise(ends), strict=True):
            for start in range(0, len(part), CHUNK):
                chunk = torch.arange(start, min(start + CHUNK, len(part)))
                images[first + chunk] = part.images[chunk]
        return [
            Samples(images[start:end], part.targets, part.extras)
            for part, (start, end) in zip(parts, pairwise(ends), strict=True)
        ]
