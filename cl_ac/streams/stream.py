"""What a stream is: given the labels of the training samples, which of them come with which task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cl_ac.errors import ConfigurationError

# What `benchmark.tasks` is for most data sets where it is not given.
DEFAULT_TASKS = 5


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


@dataclass(frozen=True)
class Split:
    """How the settings of a benchmark share its classes; its arguments are those of `Benchmark`.

    Args:
        tasks_given: whether the number of tasks is the user's choice, and no default.
    """

    num_classes: int
    tasks: int
    first_task: int | None = None
    classes_per_task: Sequence[int] | None = None
    tasks_given: bool = True

    @property
    def sizes(self) -> list[int]:
        """Classes of each task, where tasks share no class.

        Raises:
            ConfigurationError: if there are too few for the tasks.
        """
        if self.classes_per_task is None:
            return split_sizes(self.num_classes, self.tasks, self.first_task)
        sizes = list(self.classes_per_task)
        if not sizes or min(sizes) < 1 or sum(sizes) > self.num_classes:
            raise ConfigurationError(
                f"benchmark.classes_per_task is {sizes}; it needs at least one class per task "
                f"and at most {self.num_classes} in all"
            )
        return sizes


@dataclass(frozen=True)
class Labels:
    """What a stream is told of the training samples.

    Args:
        targets: class of each, int64 [N], numbered in the benchmark's order of classes.
        split: how many classes and tasks there are meant to be.
        domains: where each comes from, int64 [N]; None for data without domains.
        mistaken: the class that each class is easily mistaken for; None where nobody knows.
    """

    targets: Tensor
    split: Split
    domains: Tensor | None = None
    mistaken: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Arrival:
    """What one task brings.

    Args:
        train: its training samples, as indices into `Labels.targets`, int64 [n].
        labels: what they are labelled as, int64 [n]; None for their own classes.
        domain: that all of them are of; None without domains.
    """

    train: Tensor
    labels: Tensor | None = None
    domain: int | None = None


class Stream(ABC):
    """How data arrive. A subclass gives what each task brings, as a pure function of labels and seed.

    Test and held-out samples follow: those of the classes that are new with a task, or those of its domain.

    Args:
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    # Whether each class comes with one task only.
    disjoint: ClassVar[bool] = False

    def __init__(self, boundaries: bool = True):
        self.boundaries = boundaries

    @abstractmethod
    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        """What each task brings.

        Raises:
            ConfigurationError: if the stream does not fit the data.
        """

    def length(self, split: Split, domains: int | None = None) -> int:
        """The number of tasks; known before any data are read.

        Args:
            domains: how many the data have; None for data without.
        Raises:
            ConfigurationError: for settings that cannot be met.
        """
        if split.tasks < 1:
            raise ConfigurationError(f"benchmark.tasks is {split.tasks}; it must be at least 1")
        self.refuse_shares(split, "set benchmark.tasks alone")
        return split.tasks

    def refuse_shares(self, split: Split, way_out: str) -> None:
        """Raises a `ConfigurationError` if settings say how classes are shared, with `way_out` as what to do."""
        for name in ("first_task", "classes_per_task"):
            if getattr(split, name) is not None:
                raise ConfigurationError(
                    f"benchmark.{name} is {getattr(split, name)}, but {type(self).__name__} does not share classes "
                    f"that way; {way_out}"
                )

    def num_classes(self, split: Split) -> int:
        """How many classes come in all."""
        return split.num_classes

    def images(self, images: Tensor, domain: int, domains: int, seed: int) -> Tensor:
        """The images [N, channels, height, width], uint8, of one of so many domains, as they arrive."""
        return images
