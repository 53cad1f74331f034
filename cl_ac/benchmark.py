"""A benchmark is a sequence of tasks: classes that arrive one group after the other."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples, concatenate
from cl_ac.data.seeding import generator
from cl_ac.data.tasks import Task, task_slices
from cl_ac.errors import ConfigurationError, DataError


def split_sizes(num_classes: int, tasks: int, first_task: int | None = None) -> list[int]:
    """Classes per task: equal shares, what is left over goes to the earliest; `first_task` fixes the first.

    Raises:
        ConfigurationError: if a task would get no class.
    """
    if tasks < 1:
        raise ConfigurationError(f"benchmark.tasks is {tasks}; it must be at least 1")
    if first_task is None:
        if tasks > num_classes:
            raise ConfigurationError(f"benchmark.tasks is {tasks}, but there are only {num_classes} classes to share")
        return [num_classes // tasks + (index < num_classes % tasks) for index in range(tasks)]
    rest = num_classes - first_task
    if first_task < 1 or rest < tasks - 1 or (tasks == 1 and rest):
        raise ConfigurationError(
            f"benchmark.first_task is {first_task}: that leaves {rest} of {num_classes} classes for {tasks - 1} tasks"
        )
    return [first_task, *(split_sizes(rest, tasks - 1) if tasks > 1 else [])]


class Benchmark(ABC):
    """A data set and how its classes are split into tasks; indexing gives a `Task`, `[:n]` gives the first n.

    A subclass names `image_shape` (channels, height, width as stored) and `num_classes`, reads the data in `load`,
    and gives `augmentation` a default of its own in its constructor's signature: so a user who overrides one field
    of it keeps the others.

    Args:
        tasks: number of tasks; classes are shared equally, what is left over goes to the earliest tasks.
        first_task: number of classes of the first task, the others share the rest equally.
        classes_per_task: the number of classes of every task, instead of `tasks` and `first_task`.
        order: order in which classes arrive: `natural`, `published` (the order used in the literature, where there
            is one), a seed that shuffles them, or the list of class labels.
        validation: share of each class's training images that is held out; 0 holds out none; `test` trains on all
            and validates on the test images, the protocol of most papers.
        samples_per_class: use at most so many training images of a class, drawn by the seed.
        test_samples_per_class: use at most so many test images of a class, the same for every seed.
        augmentation: how images become inputs of the network.
        evaluate_on: the images that accuracy is reported on, `test` or `validation`: then the held-out ones, and no
            test image is looked at, so that settings can be chosen by what a run reports.
    """

    published_order: ClassVar[Sequence[int] | None] = None
    class_names: Sequence[str] | None = None  # of each label, where the data set has names
    num_classes: int
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        tasks: int = 5,
        first_task: int | None = None,
        classes_per_task: list[int] | None = None,
        order: Literal["natural", "published"] | int | list[int] = "natural",
        validation: float | Literal["test"] = 0.1,
        samples_per_class: int | None = None,
        test_samples_per_class: int | None = None,
        augmentation: Augmentation = Augmentation(),
        evaluate_on: Literal["test", "validation"] = "test",
    ):
        self.num_tasks, self.first_task, self.classes_per_task = tasks, first_task, classes_per_task
        self.order, self.validation = order, validation
        self.samples_per_class, self.test_samples_per_class = samples_per_class, test_samples_per_class
        self.augmentation, self.evaluate_on = augmentation, evaluate_on
        self.seed = 0
        if validation != "test" and not 0 <= validation < 1:
            raise ConfigurationError(f"benchmark.validation is {validation}; it must be 'test' or from 0 to below 1")
        if evaluate_on == "validation" and validation in ("test", 0):
            raise ConfigurationError(
                f"benchmark.evaluate_on is 'validation', but benchmark.validation is {validation}; hold out a share of "
                "the training images, such as 0.1"
            )
        caps = {"samples_per_class": samples_per_class, "test_samples_per_class": test_samples_per_class}
        for name, cap in caps.items():
            if cap is not None and cap < 1:
                raise ConfigurationError(f"benchmark.{name} is {cap}; it must be at least 1")

    @abstractmethod
    def load(self) -> tuple[Samples, Samples]:
        """All training and all test samples, targets in the data set's own labels 0 … num_classes - 1."""

    def list_samples(self) -> tuple[Samples, Samples]:
        """What tasks choose from: as `load`, but images in files need not be read before they are chosen."""
        return self.load()

    def keep(self, parts: Sequence[Samples]) -> Sequence[Samples]:
        """The chosen samples of all tasks as training reads them, such as decoded into memory."""
        return parts

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        return self.augmentation.output_shape(self.image_shape)

    @cached_property
    def sizes(self) -> list[int]:
        """Classes of each task."""
        if self.classes_per_task is None:
            return split_sizes(self.num_classes, self.num_tasks, self.first_task)
        sizes = self.classes_per_task
        if not sizes or min(sizes) < 1 or sum(sizes) > self.num_classes:
            raise ConfigurationError(
                f"benchmark.classes_per_task is {sizes}; it needs at least one class per task "
                f"and at most {self.num_classes} in all"
            )
        return list(sizes)

    @cached_property
    def class_order(self) -> list[int]:
        """The data set's label of each class, in the order in which classes arrive."""
        if self.order == "natural":
            return list(range(self.num_classes))
        if self.order == "published":
            if self.published_order is None:
                raise ConfigurationError(
                    f"benchmark.order is 'published', but {type(self).__name__} has no such order; "
                    "use 'natural', a seed or a list of labels"
                )
            return list(self.published_order)
        if isinstance(self.order, int):
            shuffled = torch.randperm(self.num_classes, generator=generator(self.order, "class order"))
            return shuffled.tolist()
        if sorted(self.order) != list(range(self.num_classes)):
            raise ConfigurationError(
                f"benchmark.order must hold each label from 0 to {self.num_classes - 1} exactly once"
            )
        return list(self.order)

    def check(self) -> None:
        """Raises a `ConfigurationError` for settings that cannot be met, before any data are read."""
        _ = self.sizes, self.class_order
        channels = self.image_shape[0]
        if len(self.augmentation.mean) not in ((1, 3) if channels == 1 else (1, channels)):
            raise ConfigurationError(
                f"benchmark.augmentation.mean has {len(self.augmentation.mean)} values, but images have {channels} "
                "channels; give one value for all channels, one for each, or three to make grey images coloured"
            )

    @cached_property
    def tasks(self) -> "list[Task]":
        """All tasks with their data, targets renumbered in the order of arrival.

        Raises:
            DataError: if what `load` gives is not of the promised form.
        """
        sizes = self.sizes
        train, test = (self._renumber(samples) for samples in self._checked(self.list_samples()))
        splits = [self._split(train, test, classes) for classes in task_slices(sizes)]
        kept = iter(self.keep([part for split in splits for part in split]))
        tasks: list[Task] = []
        for index in range(len(sizes)):
            task_train, held_out, task_test = next(kept), next(kept), next(kept)
            if self.evaluate_on == "validation":
                task_test = held_out
            validation = task_test if self.validation == "test" else held_out
            previous = tasks[-1] if tasks else None
            tasks.append(Task(index, tuple(sizes[: index + 1]), task_train, validation, task_test, previous))
        return tasks

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index):
        return self.tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def seen(self, task: Task) -> tuple[Samples, Tensor]:
        """The test samples of all tasks so far, and the task index of each sample [N]."""
        tests = [earlier.test for earlier in task.history()]
        indices = torch.cat([torch.full((len(test),), index) for index, test in enumerate(tests)])
        return concatenate(*tests), indices

    def _renumber(self, samples: Samples) -> Samples:
        arrival = torch.empty(self.num_classes, dtype=torch.int64)
        arrival[torch.tensor(self.class_order)] = torch.arange(self.num_classes)
        return Samples(samples.images, arrival[samples.targets.long()], samples.extras)

    def _checked(self, loaded: object) -> "tuple[Samples, Samples]":
        name = type(self).__name__
        if not (isinstance(loaded, tuple | list) and len(loaded) == 2 and all(isinstance(p, Samples) for p in loaded)):
            raise DataError(f"load() of {name} must give two Samples, those for training and those for testing")
        train, test = loaded
        parts = {"training": train} if self.evaluate_on == "validation" else {"training": train, "test": test}
        for part, samples in parts.items():
            fault = samples.fault(tuple(self.image_shape), self.num_classes)
            if fault:
                raise DataError(f"load() of {name} gives {part} samples whose {fault}")
        if self.evaluate_on == "validation":
            # Nothing of the test samples goes any further.
            test = train.select(torch.empty(0, dtype=torch.int64))
        return train, test

    def _split(self, train: Samples, test: Samples, classes: slice) -> list[Samples]:
        """Training, held-out and test samples of `classes`, in the order in which they were loaded.

        They are chosen per class: the training and the held-out ones by the benchmark's seed, and one or more is kept
        for training.
        """
        share = 0.0 if self.validation == "test" else self.validation
        chosen: tuple[list[Tensor], ...] = ([], [], [])
        for target in range(classes.start, classes.stop):
            members = _drawn(train, target, self.samples_per_class, generator(self.seed, "held-out samples", target))
            count = max(min(round(share * len(members)) or int(share > 0), len(members) - 1), 0)
            tests = _members(test, target)
            if self.test_samples_per_class is not None:
                tests = _drawn(test, target, self.test_samples_per_class, generator(0, "test samples", target))
            for part, indices in zip(chosen, (members[count:], members[:count], tests), strict=True):
                part.append(indices)
        sources = (train, train, test)
        return [source.select(torch.cat(part).sort().values) for source, part in zip(sources, chosen, strict=True)]


def _members(samples: Samples, target: int) -> Tensor:
    return (samples.targets == target).nonzero()[:, 0]


def _drawn(samples: Samples, target: int, cap: int | None, stream: torch.Generator) -> Tensor:
    """The indices of the samples of one class in random order, at most `cap`."""
    members = _members(samples, target)
    return members[torch.randperm(len(members), generator=stream)][:cap]
