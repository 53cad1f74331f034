"""Training labels of which a share is wrong; test labels never are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cl_ac.data.samples import Samples
from cl_ac.data.seeding import generator
from cl_ac.streams.dealing import members

TRUE_TARGETS = "true_targets"


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


def corrupted_share(samples: Samples) -> float | None:
    """The share of samples whose label is wrong; None if true labels are not known, or there are no samples."""
    true_targets = samples.extras.get(TRUE_TARGETS)
    if true_targets is None or not len(samples):
        return None
    return float((samples.targets != true_targets.to(samples.targets.device)).double().mean())
