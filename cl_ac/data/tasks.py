"""A task: what a stream brings at once, mostly a group of new classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from cl_ac.data.samples import Samples


@dataclass(frozen=True)
class Task:
    """What a stream brings at once: mostly a group of new classes, maybe old ones again, in a domain.

    Args:
        index: position in the sequence, from 0.
        sizes: number of classes that are new in each task up to and including this one; 0 where there are none.
        train: what may be trained on, in the network's class numbering.
        validation: held out of the training data (the test data under the papers' protocol); may be empty.
        test: what accuracy is reported on.
        previous: the task before. Only an upper bound such as joint training may read its training data.
        domain: that all its samples are of; None where there are no domains.
    """

    index: int
    sizes: tuple[int, ...]
    train: Samples
    validation: Samples
    test: Samples
    previous: "Task | None" = field(default=None, repr=False, compare=False)
    domain: int | None = None

    @property
    def is_first(self) -> bool:
        return len(self.sizes) == 1

    @property
    def num_classes(self) -> int:
        """Classes that are new in this task."""
        return self.sizes[-1]

    @property
    def classes_seen(self) -> int:
        """Classes of this task and all before it: C."""
        return sum(self.sizes)

    @property
    def classes(self) -> slice:
        """The columns of the logits that belong to this task."""
        return slice(self.classes_seen - self.num_classes, self.classes_seen)

    @property
    def old_classes(self) -> slice:
        """The columns that belong to earlier tasks."""
        return slice(0, self.classes.start)

    @property
    def seen_classes(self) -> slice:
        """All columns so far."""
        return slice(0, self.classes_seen)

    @property
    def old_tasks(self) -> list[slice]:
        """The columns of each earlier task that brought classes."""
        return [classes for classes in task_slices(self.sizes)[:-1] if classes.stop > classes.start]

    @cached_property
    def repeats(self) -> bool:
        """Whether classes of earlier tasks are among its training samples."""
        return bool((self.train.targets < self.classes.start).any())

    @property
    def is_tested(self) -> bool:
        """Whether it has test samples of its own: not if it only brings classes of earlier tasks again."""
        return self.num_classes > 0 or self.domain is not None

    @property
    def unannounced(self) -> "Task":
        """The same task for who is told of no boundaries: all classes so far are of one task, the first."""
        return replace(self, sizes=(self.classes_seen,), previous=None)

    def history(self) -> "list[Task]":
        """The tasks so far, this one last."""
        tasks: list[Task] = []
        task: Task | None = self
        while task is not None:
            tasks.append(task)
            task = task.previous
        return tasks[::-1]


def open_classes(sizes: Sequence[int], in_domains: Tensor | None = None) -> Tensor:
    """The classes that are open to choice where an image is known to be of a task: bool [T, C].

    They are those that were new with the task. A task without is one of a domain, or brought known classes again: all
    classes up to it are open.

    Args:
        in_domains: which tasks are of a domain though they bring new classes, bool [T]; none by default.
    """
    rows = []
    for task, classes in enumerate(task_slices(sizes)):
        columns = torch.arange(sum(sizes))
        own = classes.stop > classes.start and (in_domains is None or not in_domains[task])
        rows.append((columns < classes.stop) & (columns >= (classes.start if own else 0)))
    return torch.stack(rows)


def task_slices(sizes: Sequence[int]) -> list[slice]:
    """The classes of each task, as slices of the class axis."""
    return [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
