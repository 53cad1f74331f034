"""A benchmark is a sequence of tasks: a data set, and a stream that says what of it arrives when."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.decoding import pixels
from cl_ac.data.samples import Samples, concatenate
from cl_ac.data.seeding import generator
from cl_ac.data.tasks import Task, task_slices
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.streams.arriving import arrived, beside, order_of_arrival
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.streams.stream import DEFAULT_TASKS, Arrival, Labels, Split, Stream


class Benchmark(ABC):
    """A data set and how its classes are split into tasks; indexing gives a `Task`, `[:n]` gives the first n.

    `seed` and `stream` are the run's; by default each task brings new classes.

    A subclass names `image_shape` (channels, height, width as stored) and `num_classes`, reads the data in `load`,
    and gives `augmentation` a default of its own in its constructor's signature: so a user who overrides one field
    of it keeps the others.

    Args:
        tasks: number of tasks, 5 if not given; classes are shared equally, what is left over goes to the earliest
            tasks.
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

    # Of texts, `image_shape` is (1, 1, tokens) and images are the numbers of their tokens, see `data.texts`.
    kind: ClassVar[Literal["images", "texts"]] = "images"
    vocabulary: int = 0  # of texts: token numbers are below it
    published_order: ClassVar[Sequence[int] | None] = None
    class_names: Sequence[str] | None = None  # of each label, where the data set has names
    mistaken: ClassVar[Mapping[int, int] | None] = None  # for which label another is easily taken, where that is known
    # Where training samples have a domain in their extras [N]: the name of each. Test samples without one are tested
    # with each domain.
    domain_names: Sequence[str] | None = None
    num_classes: int
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        tasks: int | None = None,
        first_task: int | None = None,
        classes_per_task: list[int] | None = None,
        order: Literal["natural", "published"] | int | list[int] = "natural",
        validation: float | Literal["test"] = 0.1,
        samples_per_class: int | None = None,
        test_samples_per_class: int | None = None,
        augmentation: Augmentation = Augmentation(),
        evaluate_on: Literal["test", "validation"] = "test",
    ):
        self.num_tasks, self.tasks_given = DEFAULT_TASKS if tasks is None else tasks, tasks is not None
        self.first_task, self.classes_per_task = first_task, classes_per_task
        self.order, self.validation = order, validation
        self.samples_per_class, self.test_samples_per_class = samples_per_class, test_samples_per_class
        self.augmentation, self.evaluate_on = augmentation, evaluate_on
        self.seed = 0
        self.stream: Stream = ClassIncremental()
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

    def stored(self, things: Iterable[Any]) -> Tensor:
        """Pillow images of any mode and size as this data set stores its own: [B, channels, height, width]."""
        return torch.stack([pixels(image, self.image_shape) for image in things])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        return self.augmentation.output_shape(self.image_shape)

    @property
    def class_split(self) -> Split:
        """How the settings share the classes."""
        return Split(self.num_classes, self.num_tasks, self.first_task, self.classes_per_task, self.tasks_given)

    @cached_property
    def sizes(self) -> list[int]:
        """Classes of each task, where tasks share none."""
        return self.class_split.sizes

    @property
    def classes_to_come(self) -> int:
        """How many classes the stream brings in all."""
        return self.stream.num_classes(self.class_split)

    @cached_property
    def class_order(self) -> list[int]:
        """The data set's label of each class, in the order that is asked for."""
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
            first = ", ".join(map(str, self.order[:8])) + (", …" if len(self.order) > 8 else "")
            raise ConfigurationError(
                f"benchmark.order is [{first}]; it must hold each label from 0 to {self.num_classes - 1} exactly once"
            )
        return list(self.order)

    def check(self) -> None:
        """Raises a `ConfigurationError` for settings that cannot be met, before any data are read."""
        _ = len(self), self.class_order
        channels = self.image_shape[0]
        if len(self.augmentation.mean) not in ((1, 3) if channels == 1 else (1, channels)):
            raise ConfigurationError(
                f"benchmark.augmentation.mean has {len(self.augmentation.mean)} values, but images have {channels} "
                "channels; give one value for all channels, one for each, or three to make grey images coloured"
            )

    @property
    def tasks(self) -> list[Task]:
        """All tasks with their data, targets renumbered in the order of arrival.

        Raises:
            DataError: if what `load` gives is not of the promised form.
            ConfigurationError: if the stream does not fit the data.
        """
        return self._arrived[0]

    @property
    def arrival_order(self) -> list[int]:
        """The data set's label of each class, in the order in which classes arrive; reads the data."""
        return self._arrived[1]

    @cached_property
    def _arrived(self) -> tuple[list[Task], list[int]]:
        train, test = (self._renumber(samples, self.class_order) for samples in self._checked(self.list_samples()))
        train, held_out, test = self._chosen(train, test)
        labels = Labels(train.targets, self.class_split, train.extras.get("domain"), self._mistaken())
        arrivals = self.stream.arrivals(labels, self.seed)
        self._check_domains(arrivals)
        order, sizes = order_of_arrival(arrivals, train.targets)
        train, held_out, test = (self._renumber(samples, order) for samples in (train, held_out, test))
        parts = []
        for arrival, classes in zip(arrivals, task_slices(sizes), strict=True):
            bounds = slice(0, classes.stop) if arrival.domain is not None else classes
            parts += [arrived(arrival, train, order), *(beside(part, bounds, arrival) for part in (held_out, test))]
        kept = iter(self.keep(parts))
        apart = [self._is_apart(samples) for samples in (train, held_out, test)]
        tasks: list[Task] = []
        for index, arrival in enumerate(arrivals):
            task_train, task_held_out, task_test = (
                self._in_domain(next(kept), arrival, len(arrivals)) if each else next(kept) for each in apart
            )
            if self.evaluate_on == "validation":
                task_test = task_held_out
            validation = task_test if self.validation == "test" else task_held_out
            previous = tasks[-1] if tasks else None
            tasks.append(
                Task(index, tuple(sizes[: index + 1]), task_train, validation, task_test, previous, arrival.domain)
            )
        return tasks, [self.class_order[place] for place in order]

    def __len__(self) -> int:
        return self.stream.length(self.class_split, None if self.domain_names is None else len(self.domain_names))

    def __getitem__(self, index):
        return self.tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def seen(self, task: Task) -> tuple[Samples, Tensor]:
        """The test samples of all tasks so far, and the task index of each sample [N]."""
        tests = [earlier.test for earlier in task.history()]
        indices = torch.cat([torch.full((len(test),), index) for index, test in enumerate(tests)])
        return concatenate(*tests), indices

    def _renumber(self, samples: Samples, order: Sequence[int]) -> Samples:
        """The same samples whose classes are numbered by their places in `order`; −1 for those that are not there."""
        places = torch.full((self.num_classes,), -1, dtype=torch.int64)
        places[torch.tensor(order)] = torch.arange(len(order))
        return Samples(samples.images, places[samples.targets.long()], samples.extras)

    def _mistaken(self) -> dict[int, int] | None:
        """`mistaken` in the order of classes that is asked for."""
        if self.mistaken is None:
            return None
        places = {label: place for place, label in enumerate(self.class_order)}
        return {places[label]: places[other] for label, other in self.mistaken.items()}

    def _checked(self, loaded: object) -> "tuple[Samples, Samples]":
        name = type(self).__name__
        if not (isinstance(loaded, tuple | list) and len(loaded) == 2 and all(isinstance(p, Samples) for p in loaded)):
            raise DataError(f"load() of {name} must give two Samples, those for training and those for testing")
        train, test = loaded
        parts = {"training": train} if self.evaluate_on == "validation" else {"training": train, "test": test}
        for part, samples in parts.items():
            dtype = torch.int32 if self.kind == "texts" else torch.uint8
            fault = samples.fault(tuple(self.image_shape), self.num_classes, dtype)
            if fault:
                raise DataError(f"load() of {name} gives {part} samples whose {fault}")
        if self.evaluate_on == "validation":
            # Nothing of the test samples goes any further.
            test = train.select(torch.empty(0, dtype=torch.int64))
        return train, test

    def _chosen(self, train: Samples, test: Samples) -> list[Samples]:
        """Training, held-out and test samples that are used at all, in the order in which they were loaded.

        They are chosen per class, and per domain where there are any: the training and the held-out ones by the
        benchmark's seed, and one or more is kept for training.
        """
        share = 0.0 if self.validation == "test" else self.validation
        chosen: tuple[list[Tensor], ...] = ([], [], [])
        for group in self._groups(train):
            members = _drawn(train, group, self.samples_per_class, generator(self.seed, "held-out samples", *group))
            count = max(min(round(share * len(members)) or int(share > 0), len(members) - 1), 0)
            chosen[0].append(members[count:])
            chosen[1].append(members[:count])
        for group in self._groups(test):
            tests = _members(test, group)
            if self.test_samples_per_class is not None:
                tests = _drawn(test, group, self.test_samples_per_class, generator(0, "test samples", *group))
            chosen[2].append(tests)
        sources = (train, train, test)
        return [source.select(torch.cat(part).sort().values) for source, part in zip(sources, chosen, strict=True)]

    def _groups(self, samples: Samples) -> list[tuple[int, ...]]:
        """The classes that come, each with every domain if the samples have any."""
        classes = range(self.classes_to_come)
        if self.domain_names is None or "domain" not in samples.extras:
            return [(target,) for target in classes]
        return [(target, domain) for target in classes for domain in range(len(self.domain_names))]

    def _check_domains(self, arrivals: Sequence[Arrival]) -> None:
        """Raises a `DataError` if a domain that is to be a task has no training samples."""
        trained = {arrival.domain for arrival in arrivals if len(arrival.train)}
        if self.domain_names is None or arrivals[0].domain is None:
            return
        for domain, name in enumerate(self.domain_names):
            if domain not in trained:
                raise DataError(f"load() of {type(self).__name__} gives no training samples of the domain '{name}'")

    def _is_apart(self, samples: Samples) -> bool:
        """Whether samples differ from domain to domain, instead of coming with each of them as they are."""
        return "domain" in samples.extras or type(self.stream).images is not Stream.images

    def _in_domain(self, samples: Samples, arrival: Arrival, domains: int) -> Samples:
        """The samples of a task as they arrive in its domain, if it has one."""
        if arrival.domain is None:
            return samples
        extras = {**samples.extras, "domain": torch.full((len(samples),), arrival.domain)}
        if type(self.stream).images is Stream.images:
            return replace(samples, extras=extras)
        if not isinstance(samples.images, Tensor):
            raise ConfigurationError(
                f"{type(self.stream).__name__} changes images that memory holds, but those of the benchmark stay in "
                "their files: lower benchmark.size or benchmark.samples_per_class, so that they fit"
            )
        images = self.stream.images(samples.images, arrival.domain, domains, self.seed)
        return Samples(images, samples.targets, extras)


def _members(samples: Samples, group: Sequence[int]) -> Tensor:
    """The samples of a class, or of a class in a domain."""
    target, *domain = group
    inside = samples.targets == target
    for each in domain:
        inside &= samples.extras["domain"] == each
    return inside.nonzero()[:, 0]


def _drawn(samples: Samples, group: Sequence[int], cap: int | None, stream: torch.Generator) -> Tensor:
    """The indices of the samples of one group in random order, at most `cap`."""
    members = _members(samples, group)
    return members[torch.randperm(len(members), generator=stream)][:cap]
