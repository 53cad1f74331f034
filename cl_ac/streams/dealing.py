"""What generators of streams share: members of a class, and things dealt to tasks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError
from cl_ac.streams.stream import Arrival


def members(targets: Tensor, stream: torch.Generator) -> list[Tensor]:
    """The indices of the samples of each class that occurs, in random order; classes in the order of their labels.

    Args:
        targets: int64 [N].
    """
    found = [(targets == label).nonzero()[:, 0] for label in targets.unique().tolist()]
    return [shuffled(indices, stream) for indices in found]


def shuffled(values: Tensor, stream: torch.Generator) -> Tensor:
    """The same values [N, ...] in random order."""
    return values[torch.randperm(len(values), generator=stream)]


def dealt(values: Tensor, parts: int) -> list[Tensor]:
    """Values [N] in equal parts, one after the other; what is left over goes to the earliest."""
    return list(values.tensor_split(parts))


def cut_at_random(values: Tensor, parts: int, stream: torch.Generator) -> list[Tensor]:
    """Values [N] in parts of random lengths, some of which may be 0: cut points are uniform from 0 to N."""
    cuts = torch.randint(0, len(values) + 1, (parts - 1,), generator=stream).sort().values.tolist()
    return [values[start:end] for start, end in pairwise([0, *cuts, len(values)])]


def arrivals_of(parts: Sequence[Tensor], way_out: str) -> list[Arrival]:
    """What tasks bring that are given the samples `parts`.

    Raises:
        ConfigurationError: if a task has none, with `way_out` as what to do about it.
    """
    for task, part in enumerate(parts):
        if not len(part):
            raise ConfigurationError(f"the stream leaves task {task} without training images; {way_out}")
    return [Arrival(part) for part in parts]


def check_share(option: str, value: float) -> None:
    """Raises a `ConfigurationError` if the value of `stream.<option>` is no share."""
    if not 0 <= value <= 1:
        raise ConfigurationError(f"stream.{option} is {value:g}; it must be from 0 to 1")
