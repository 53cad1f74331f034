"""What training iterates over, and what an approach's loss sees of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from cl_ac.data.samples import Samples
from cl_ac.data.seeding import generator
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
        views: further augmentations of the same images, each [B, channels, height, width], as the training set asks.
        epoch: of the fit, from 0.
        epochs: in the fit.
        step: of the epoch, from 0.
        steps: in the epoch.
        incoming: the images as they are stored, where a memory may take them up: on the last step that learns from
            them in the first epoch, if the training set's memory changes meanwhile.
        stream: a CPU generator for each number that it is given, for random draws in a loss: keyed by the run's seed,
            the fit, the task, the epoch and the step. What is drawn for one exit should be keyed by how many exits lie
            behind it, so that the final one sees the same numbers with any number of ACs.
    """

    images: Tensor
    targets: Tensor
    task: Task
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    replay: "tuple[Batch, ...]" = ()
    views: tuple[Tensor, ...] = ()
    epoch: int = 0
    epochs: int = 1
    step: int = 0
    steps: int = 1
    incoming: Samples | None = None
    stream: Callable[..., torch.Generator] = partial(generator, 0, "loss")

    def __len__(self) -> int:
        return len(self.targets)


class Remembering(Protocol):
    """Exemplars, which may be others after each step."""

    @property
    def live(self) -> bool:
        """Whether they change while a task is learned."""
        ...

    @property
    def samples(self) -> Samples:
        """What there is now."""
        ...


@dataclass(frozen=True)
class TrainingSet:
    """What one task iterates over.

    Args:
        samples: shuffled every epoch into batches of `training.batch_size`.
        task: the task being learned.
        memory: exemplars to draw from beside each batch; of a memory that is live, each step draws from what it holds
            by then.
        replay: exemplars per step, one entry for each independent draw; None draws as many as a full batch has.
        drop_last: whether the last, smaller batch of an epoch is left out.
        views: changes to the run's augmentation, such as `{"crop": "resized"}`, for each further view of every image,
            new or replayed, that the loss sees.
    """

    samples: Samples
    task: Task
    memory: Samples | Remembering | None = None
    replay: tuple[int | None, ...] = ()
    drop_last: bool = False
    views: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for amount in self.replay:
            if amount is not None and amount < 1:
                raise ConfigurationError(f"replay is {amount} exemplars per step; it must be at least 1")

    @property
    def live(self) -> bool:
        """Whether exemplars change while the task is learned."""
        return not (self.memory is None or isinstance(self.memory, Samples)) and self.memory.live

    @property
    def exemplars(self) -> Samples:
        """What draws come from now; an empty set of the same kind of images where there is no memory yet."""
        held = self.memory if self.memory is None or isinstance(self.memory, Samples) else self.memory.samples
        if held is not None and len(held):
            return held
        images = self.samples.images
        dtype = images.dtype if isinstance(images, torch.Tensor) else torch.uint8
        return Samples(torch.empty(0, *images.shape[1:], dtype=dtype), self.samples.targets[:0])
