"""Several data sets, one after the other."""

from collections.abc import Sequence as Listed
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Images, Samples, UnreadImages
from cl_ac.datasets.unread_set import UnreadSet
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.streams.stream import Split


@dataclass(frozen=True)
class FittedImages(UnreadImages):
    """Images of several sources, each of a shape of its own, brought to one.

    Args:
        sources: images of each data set.
        places: int64 [N, 2], source and index in it of each image.
        frame: channels, height and width: images are resized to it whatever their aspect ratio, grey ones get three
            equal channels where it has three.
    """

    sources: Listed[Images]
    places: Tensor
    frame: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.frame)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, indices: Tensor) -> Tensor:
        images = torch.empty(len(indices), *self.frame, dtype=torch.uint8)
        numbers, rows = self.places[indices].unbind(1)
        for number in numbers.unique().tolist():
            here = (numbers == number).nonzero()[:, 0]
            images[here] = fitted(self.sources[number][rows[here]], self.frame)
        return images

    def select(self, indices: Tensor) -> "FittedImages":
        return FittedImages(self.sources, self.places[indices], self.frame)


def fitted(images: Tensor, frame: tuple[int, int, int]) -> Tensor:
    """Images [N, 1 or channels, height, width] as bytes of the shape `frame`."""
    channels, *side = frame
    if list(images.shape[2:]) != side:
        resized = interpolate(images.float(), size=side, mode="bilinear", antialias=True, align_corners=False)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    return images.expand(-1, channels, -1, -1)


class Sequence(UnreadSet):
    """Data sets that come one after the other, with classes of their own: 5-datasets and its like.

    Labels of a later data set are numbered behind those of the earlier ones. Images are brought to one size; grey ones
    become coloured if any data set has colours. All are normalised and augmented alike.

    Args:
        parts: the data sets, each a benchmark by name, or with its options as `{class_path: …, init_args: …}`. Of
            their options only those count that say which images there are, and those of `split`.
        split: whether each is split into tasks as its own `tasks`, `first_task`, `classes_per_task` say; else each is
            one task. Its own `order` counts in both cases.
        same_classes: whether all have the same classes, such as digits: then labels are the same in all, and each data
            set is a domain.
        size: side in pixels of the images kept.
        augmentation: how images become inputs of the network.
        validation: share of each class's training images that is held out; `test` validates on the test images.
        samples_per_class: use at most so many training images of a class.
        test_samples_per_class: use at most so many test images of a class.
        evaluate_on: the images that accuracy is reported on, `test` or the held-out ones, `validation`.
    """

    def __init__(
        self,
        parts: list[Benchmark],
        split: bool = False,
        same_classes: bool = False,
        size: int = 32,
        in_memory: bool | None = None,
        augmentation: Augmentation = Augmentation(),
        validation: float | Literal["test"] = 0.1,
        samples_per_class: int | None = None,
        test_samples_per_class: int | None = None,
        evaluate_on: Literal["test", "validation"] = "test",
    ):
        super().__init__(
            in_memory=in_memory,
            augmentation=augmentation,
            validation=validation,
            samples_per_class=samples_per_class,
            test_samples_per_class=test_samples_per_class,
            evaluate_on=evaluate_on,
        )
        if len(parts) < 2:
            raise ConfigurationError(f"benchmark.parts names {len(parts)} data sets; a sequence needs at least two")
        if split and same_classes:
            raise ConfigurationError(
                "benchmark.split and benchmark.same_classes are both true, but data sets with the same classes are "
                "domains, which are not split"
            )
        self.parts, self.each_split, self.same_classes, self.size = parts, split, same_classes, size
        names = [type(part).__name__ for part in parts]
        if same_classes:
            self.domain_names = [
                f"{name} {names[: place + 1].count(name)}" if names.count(name) > 1 else name
                for place, name in enumerate(names)
            ]

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width.

        Raises:
            ConfigurationError: if data sets have different numbers of channels, of which none is grey.
        """
        channels = sorted({part.image_shape[0] for part in self.parts} - {1})
        if len(channels) > 1:
            raise ConfigurationError(
                f"benchmark.parts have images of {' and '.join(map(str, channels))} channels; only grey ones can be "
                "brought to those of others"
            )
        return (channels or [1])[0], self.size, self.size

    @cached_property
    def num_classes(self) -> int:
        """Of all data sets together.

        Raises:
            ConfigurationError: if data sets that have the same classes have not equally many.
        """
        counts = [part.num_classes for part in self.parts]
        if not self.same_classes:
            return sum(counts)
        if len(set(counts)) > 1:
            raise ConfigurationError(
                f"benchmark.same_classes is true, but the data sets have {', '.join(map(str, counts))} classes"
            )
        return counts[0]

    @cached_property
    def offsets(self) -> list[int]:
        """What the labels of each data set start from."""
        counts = [0 if self.same_classes else part.num_classes for part in self.parts]
        return torch.tensor([0, *counts]).cumsum(0)[:-1].tolist()

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each label, with its data set."""
        if self.same_classes:
            names = self.parts[0].class_names
            return list(names) if names else [str(label) for label in range(self.num_classes)]
        return [
            f"{type(part).__name__} {name}"
            for part in self.parts
            for name in (part.class_names or range(part.num_classes))
        ]

    @property
    def class_split(self) -> Split:
        """How classes are shared among tasks."""
        if self.same_classes:
            return super().class_split
        sizes = [size for part in self.parts for size in self._sizes_of(part)]
        return Split(self.num_classes, len(sizes), classes_per_task=sizes)

    def _sizes_of(self, part: Benchmark) -> list[int]:
        """Classes of each task of a data set."""
        return part.class_split.sizes if self.each_split else [part.num_classes]

    @cached_property
    def class_order(self) -> list[int]:
        """Labels in the order in which classes arrive: each data set's own order; last what their tasks leave out."""
        if self.same_classes:
            return list(self.parts[0].class_order)
        arriving, left_out = [], []
        for part, offset in zip(self.parts, self.offsets, strict=True):
            labels, used = [offset + label for label in part.class_order], sum(self._sizes_of(part))
            arriving += labels[:used]
            left_out += labels[used:]
        return arriving + left_out

    def check(self) -> None:
        for part in self.parts:
            self._sizes_of(part)
        super().check()

    def list_samples(self) -> tuple[Samples, Samples]:
        """All images of all data sets, brought to one shape when they are read.

        Raises:
            DataError: if a data set is missing or damaged.
        """
        loaded = [part.list_samples() for part in self.parts]
        self._look_at([train for train, _ in loaded])
        # To look at samples reads an image.
        if self.evaluate_on == "test":
            self._look_at([test for _, test in loaded])
        return self._joined([train for train, _ in loaded]), self._joined([test for _, test in loaded])

    def _look_at(self, parts: Listed[Samples]) -> None:
        for part, samples in zip(self.parts, parts, strict=True):
            if fault := samples.fault(part.image_shape, part.num_classes):
                raise DataError(f"{type(part).__name__} in benchmark.parts gives samples whose {fault}")

    def _joined(self, parts: Listed[Samples]) -> Samples:
        places = torch.cat(
            [
                torch.stack([torch.full((len(part),), number), torch.arange(len(part))], 1)
                for number, part in enumerate(parts)
            ]
        )
        targets = torch.cat([part.targets + offset for part, offset in zip(parts, self.offsets, strict=True)])
        images = FittedImages([part.images for part in parts], places, self.image_shape)
        return Samples(images, targets, {"domain": places[:, 0]} if self.same_classes else {})
