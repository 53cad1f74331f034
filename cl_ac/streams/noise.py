"""Training labels of which a share is wrong; test labels never are."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from cl_ac.data.seeding import generator
from cl_ac.data.tasks import task_slices
from cl_ac.errors import ConfigurationError
from cl_ac.streams.class_incremental import ClassIncremental
from cl_ac.streams.dealing import check_share, members
from cl_ac.streams.stream import Arrival, Labels


class NoisyLabels(ClassIncremental):
    """Each task brings classes of its own, and a share of its training labels is that of another class of the task.

    Held-out and test labels are right.

    Args:
        rate: share of each class's training images that are labelled wrongly.
        kind: `symmetric` draws any other class; `asymmetric` takes the class that a class is easily mistaken for, which
            CIFAR10 and CIFAR100 know (of the latter, the next class of its superclass); `pair` takes the next class.
        boundaries: whether approaches are told where a task ends and the next begins.
    """

    def __init__(
        self,
        rate: float = 0.2,
        kind: Literal["symmetric", "asymmetric", "pair"] = "symmetric",
        boundaries: bool = True,
    ):
        super().__init__(boundaries)
        check_share("rate", rate)
        self.rate, self.kind = rate, kind

    def arrivals(self, labels: Labels, seed: int) -> list[Arrival]:
        groups = [list(range(classes.start, classes.stop)) for classes in task_slices(labels.split.sizes)]
        if self.kind == "symmetric":
            noisy = symmetric(labels.targets, self.rate, groups, seed)
        else:
            noisy = asymmetric(labels.targets, self.rate, self.mistakes(labels, groups), seed)
        if len(noisy.unique()) < len(labels.targets.unique()):
            raise ConfigurationError(f"stream.rate is {self.rate:g}, which leaves a class without labels; set it lower")
        return [Arrival(arrival.train, noisy[arrival.train]) for arrival in super().arrivals(labels, seed)]

    def mistakes(self, labels: Labels, groups: Sequence[Sequence[int]]) -> dict[int, int]:
        """What each class is taken for, within its task.

        Raises:
            ConfigurationError: if the data do not say, or no class is taken for another of its task.
        """
        if self.kind == "pair":
            return next_in_group(groups)
        if labels.mistaken is None:
            raise ConfigurationError(
                "stream.kind is 'asymmetric', but the benchmark does not say which class is mistaken for which; take "
                "'pair' or 'symmetric'"
            )
        found = {label: other for group in groups for label, other in within(labels.mistaken, group).items()}
        if not found:
            raise ConfigurationError(
                "stream.kind is 'asymmetric', but no class is mistaken for another of its task; set fewer "
                "benchmark.tasks, another benchmark.order, or take 'pair'"
            )
        return found


def symmetric(targets: Tensor, rate: float, groups: Sequence[Sequence[int]], seed: int) -> Tensor:
    """Labels of which `rate` of each class are any other class of its group, all as likely.

    Args:
        targets: int64 [N], the class of each sample.
        rate: share of each class's samples, from 0 to 1, rounded to whole samples.
        groups: disjoint groups of classes that hold every class: those of each task, so that no label is of a class
            that is not known yet, or all classes as one group. A class alone in its group keeps its labels.
        seed: of all draws.
    Returns:
        int64 [N], the labels with their noise.
    """
    stream = generator(seed, "symmetric label noise")
    others = {label: [other for other in group if other != label] for group in groups for label in group}
    noisy = targets.clone()
    for samples in members(targets, stream):
        possible = torch.tensor(others[int(targets[samples[0]])], dtype=torch.int64)
        if len(possible):
            wrong = samples[: round(rate * len(samples))]
            noisy[wrong] = possible[torch.randint(len(possible), (len(wrong),), generator=stream)]
    return noisy


def asymmetric(targets: Tensor, rate: float, mistaken: Mapping[int, int], seed: int) -> Tensor:
    """Labels of which `rate` of each class are the one class that it is mistaken for.

    Args:
        targets: int64 [N], the class of each sample.
        rate: share of each class's samples, from 0 to 1, rounded to whole samples.
        mistaken: the class that each class is taken for; a class that is not in it keeps its labels.
        seed: of all draws.
    Returns:
        int64 [N], the labels with their noise.
    """
    noisy = targets.clone()
    for samples in members(targets, generator(seed, "asymmetric label noise")):
        label = int(targets[samples[0]])
        noisy[samples[: round(rate * len(samples))]] = mistaken.get(label, label)
    return noisy


def next_in_group(groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """Each class with the next one of its group, the last with the first; a class alone in its group is left out."""
    return {
        label: group[(place + 1) % len(group)]
        for group in groups
        if len(group) > 1
        for place, label in enumerate(group)
    }


def within(mistaken: Mapping[int, int], classes: Sequence[int]) -> dict[int, int]:
    """What `mistaken` says of some classes alone: who is taken for a class outside is taken for what that is taken for.

    A class that comes back to itself so, or whose chain ends outside, is left out.
    """
    inside, result = set(classes), {}
    for label in classes:
        other, passed = mistaken.get(label), {label}
        while other is not None and other not in inside and other not in passed:
            passed.add(other)
            other = mistaken.get(other)
        if other in inside and other != label:
            result[label] = other
    return result
