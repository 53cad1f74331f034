"""What generators of streams share: members of a class, and things dealt to tasks."""

from itertools import pairwise

import torch
from torch import Tensor


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
