"""Domains that arrive one after the other, with the same classes in each."""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.streams.stream import Arrival, Labels, Split, Stream


class DomainIncremental(Stream):
    """Each task is one of the domains that the data have, in their order, with all its classes."""

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        assert labels.domains is not None  # `length` has refused data without
        count = int(labels.domains.max()) + 1
        return [Arrival((labels.domains == domain).nonzero()[:, 0], domain=domain) for domain in range(count)]

    def length(self, split: Split, domains: int | None = None) -> int:
        if domains is None:
            raise ConfigurationError(
                "stream is DomainIncremental, but the benchmark has no domains; take one that has, such as "
                "DomainFolder, or a stream that makes them: RotatedImages, PermutedPixels"
            )
        self.refuse_shares(split, "each domain is a task: leave it out")
        if split.tasks_given and split.tasks != domains:
            raise ConfigurationError(
                f"benchmark.tasks is {split.tasks}, but DomainIncremental makes a task of each of {domains} domains: "
                "leave it out"
            )
        return domains


class MadeDomains(Stream):
    """All training samples come with each of `benchmark.tasks` tasks, their images changed in a way of its own."""

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        every = torch.arange(len(labels.targets))
        return [Arrival(every, domain=domain) for domain in range(labels.split.tasks)]

    def length(self, split: Split, domains: int | None = None) -> int:
        if domains is not None:
            raise ConfigurationError(
                f"stream is {type(self).__name__}, but the benchmark has {domains} domains of its own: take "
                "DomainIncremental"
            )
        return super().length(split)

    @abstractmethod
    def images(self, images: Tensor, domain: int, domains: int, seed: int) -> Tensor: ...


class PermutedPixels(MadeDomains):
    """In each task the pixels of all images are permuted in another way (Goodfellow et al., 2013).

    All channels of an image change places alike. Augmentation that moves pixels mixes what is no neighbourhood any
    more: switch it off (`--benchmark.augmentation.crop none`).

    Args:
        first: whether the first task is permuted too.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(self, first: bool = True, boundaries: bool = True):
        super().__init__(boundaries)
        self.first = first

    def images(self, images: Tensor, domain: int, domains: int, seed: int) -> Tensor:
        if domain == 0 and not self.first:
            return images
        pixels = images.flatten(2)
        order = torch.randperm(pixels.shape[-1], generator=generator(seed, "permuted pixels", domain))
        return pixels[:, :, order].view_as(images)


class RotatedImages(MadeDomains):
    """In each task all images are turned by another angle; what comes into sight at the corners is black.

    Args:
        largest: angles are below it, in degrees.
        angles: `even`, from 0 in equal steps; `ranges`, one drawn from each of as many equal ranges (Lopez-Paz &
            Ranzato, 2017); `drawn`, each drawn from all (Buzzega et al., 2020).
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(
        self,
        largest: float = 180.0,
        angles: Literal["even", "ranges", "drawn"] = "even",
        boundaries: bool = True,
    ):
        super().__init__(boundaries)
        if not 0 < largest <= 360:
            raise ConfigurationError(f"stream.largest is {largest:g}; it must be above 0 and at most 360")
        self.largest, self.angles = largest, angles

    def angle(self, domain: int, domains: int, seed: int) -> float:
        """By how many degrees the images of one of so many domains are turned, against the clock."""
        drawn = torch.rand((), generator=generator(seed, "rotation", domain), dtype=torch.float64).item()
        if self.angles == "drawn":
            return self.largest * drawn
        return self.largest * (domain + (drawn if self.angles == "ranges" else 0)) / domains

    def images(self, images: Tensor, domain: int, domains: int, seed: int) -> Tensor:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import rotate

        return rotate(images, self.angle(domain, domains, seed), InterpolationMode.BILINEAR)
