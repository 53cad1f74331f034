"""What training iterates over, and what an approach's loss sees of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task
from cl_ac.errors import ConfigurationError


@dataclass(frozen=True)
class Batch:
    """What an approach's loss sees.

    Args:
        images: normalised float [B, channels, height, width].
        targets: int64 [B].
        task: the task being learned.
        extras: what travels with the images [B, ...], such as stored logits.
        replay: one batch of exemplars per independent draw that the training set asks for; may be empty batches.
    """

    images: Tensor
    targets: Tensor
    task: Task
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    replay: "tuple[Batch, ...]" = ()

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class TrainingSet:
    """What one task iterates over.

    Args:
        samples: shuffled every epoch into batches of `training.batch_size`.
        task: the task being learned.
        memory: exemplars to draw from beside each batch.
        replay: exemplars per step, one entry for each independent draw; None draws as many as the batch has.
        drop_last: whether the last, smaller batch of an epoch is left out.
    """

    samples: Samples
    task: Task
    memory: Samples | None = None
    replay: tuple[int | None, ...] = ()
    drop_last: bool = False

    def __post_init__(self) -> None:
        for amount in self.replay:
            if amount is not None and amount < 1:
                raise ConfigurationError(f"replay is {amount} exemplars per step; it must be at least 1")

    @property
    def exemplars(self) -> Samples:
        """What draws come from; an empty set of the same kind of images where there is no memory yet."""
        if self.memory is not None and len(self.memory):
            return self.memory
        return Samples(torch.empty(0, *self.samples.images.shape[1:], dtype=torch.uint8), self.samples.targets[:0])
