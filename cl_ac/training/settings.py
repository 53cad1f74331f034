"""How each task is trained: the settings of every fit."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from cl_ac.data.recognised import PIXELS_ON_CPU, Recall
from cl_ac.data.rows import Room
from cl_ac.errors import ConfigurationError


@dataclass(frozen=True)
class HeadWarmup:
    """Training of the newest classifier rows alone, before each task but the first (Szatkowski et al., 2024).

    Cross-entropy over the new classes, on their images among those that the approach trains on, every exit weighing the
    same; the rate follows a cosine to 0.

    Args:
        epochs: of the warm-up; 0 for none.
        lr: learning rate at its start.
        weight_decay: of the rows.
        freeze_batch_norm: keep the backbone in evaluation mode; else its statistics drift meanwhile.
    """

    epochs: int = 0
    lr: float = 0.1
    weight_decay: float = 0.0
    freeze_batch_norm: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.weight_decay < 0 or self.lr <= 0:
            raise ConfigurationError(
                f"training.head_warmup has epochs {self.epochs}, lr {self.lr:g} and weight_decay "
                f"{self.weight_decay:g}; lr must be above 0 and the others at least 0"
            )


@dataclass(frozen=True)
class FrozenOutputs:
    """What frozen stages (`backbone.frozen`) make of an image is kept, so that they run on it once.

    Images that augmentation changes at random are others each time, and are not kept; see `fixed_views` of `Training`.

    Args:
        keep: whether anything is kept.
        memory: GiB of the training device in which it is kept; what is more goes into files.
        folder: of these files, which are gone when the run ends in any way; None is the system's for temporary files.
    """

    keep: bool = True
    memory: float = 2.0
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.memory < 0:
            raise ConfigurationError(
                f"training.frozen_outputs.memory is {self.memory:g}; it must be at least 0, for files only"
            )

    def recall(self, device: torch.device) -> Recall | None:
        """Where a run keeps it; None if it keeps nothing."""
        folder = None if self.folder is None else Path(self.folder).expanduser()
        pixels = PIXELS_ON_CPU if device.type == "cpu" else None
        return Recall(Room(int(self.memory * 2**30), device, folder), pixels) if self.keep else None


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at a rate of their own.

    Args:
        parameters: what learns.
        lr_scale: factor on `training.lr`.
        weight_decay: of these parameters; None for that of the run.
    """

    parameters: Iterable[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Training:
    """How each task is trained.

    Args:
        epochs: epochs of every task, or a list with one number per task; with 0 nothing is fitted, and what reads
            features alone, such as an inference classifier, learns the task all the same.
        batch_size: new images per step; exemplars that an approach draws beside them come on top.
        optimizer: `sgd` or `adamw`; created anew for each task.
        lr: learning rate at the start of a task (after the warm-up).
        momentum: of SGD.
        weight_decay: of either optimiser.
        schedule: `multistep` multiplies the rate by `decay` at each milestone, `cosine` lowers it to 0, `constant`.
        milestones: for `multistep`, each an epoch (a whole number) or a share of the task's epochs (below 1).
        decay: factor at each milestone.
        warmup: epochs over which the rate rises linearly to `lr` first.
        clip: largest norm of the gradient; 0 does not clip.
        head_warmup: training of the newest classifier rows alone, before each task but the first.
        freeze_batch_norm: keep the network's batch norm in evaluation mode after the first task.
        synchronise_batch_norm: where several devices share a run, normalise with the statistics of the whole batch, as
            one device does, and not of each one's part.
        select: keep the `last` epoch's weights, or the `best` on the validation samples (final exit's accuracy).
        precision: of the forward and backward pass; below float32 through autocast.
        channels_last: whether images and convolutions use the channels-last memory format, which is usually faster.
        workers: processes that decode images which do not fit in memory.
        iterations: steps that learn from each batch, each with other exemplars, where data pass by only once.
        first_batch_size: new images per step of the first task, which has no exemplars to draw; None for `batch_size`.
        fixed_views: so many augmented views of each image are drawn for a task and shown in turn, one in each epoch, so
            that frozen stages may keep what they make of them; 0 draws new views in every epoch.
        frozen_outputs: how what frozen stages give is kept.
        compile: whether the steps of each task go through PyTorch's compiler, see `CompiledLoss`: its other kernels
            round in other ways. It takes a while at every task; `auto` compiles where that has been seen to pay,
            which is nowhere yet.
    """

    epochs: int | list[int] = 200
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: tuple[float, ...] = (0.3, 0.6, 0.8)
    decay: float = 0.1
    warmup: int = 0
    clip: float = 100.0
    head_warmup: HeadWarmup = HeadWarmup()
    freeze_batch_norm: bool = False
    synchronise_batch_norm: bool = True
    select: Literal["last", "best"] = "last"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    workers: int = 4
    iterations: int = 1
    first_batch_size: int | None = None
    fixed_views: int = 0
    frozen_outputs: FrozenOutputs = FrozenOutputs()
    compile: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        counts = self.epochs if isinstance(self.epochs, list) else [self.epochs]
        if not counts or min(counts) < 0:
            raise ConfigurationError(f"training.epochs is {self.epochs}; it must be at least 0 for every task")
        if self.compile not in (True, False, "auto"):
            raise ConfigurationError(f"training.compile is {self.compile!r}; it must be auto, true or false")
        for name in ("batch_size", "lr", "decay"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"training.{name} is {getattr(self, name)}; it must be above 0")
        if self.iterations < 1:
            raise ConfigurationError(f"training.iterations is {self.iterations}; it must be at least 1")
        if self.first_batch_size is not None and self.first_batch_size < 1:
            raise ConfigurationError(f"training.first_batch_size is {self.first_batch_size}; it must be at least 1")
        for name in ("momentum", "weight_decay", "clip", "warmup", "workers", "fixed_views"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"training.{name} is {getattr(self, name)}; it must be at least 0")
        if self.momentum >= 1:
            raise ConfigurationError(f"training.momentum is {self.momentum}; it must be below 1")
        for epochs in filter(None, counts):
            self._check_schedule(epochs)

    def _check_schedule(self, epochs: int) -> None:
        if self.warmup >= epochs and self.warmup > 0:
            raise ConfigurationError(f"training.warmup is {self.warmup}; it must be below the {epochs} training.epochs")
        if self.schedule != "multistep":
            return
        for milestone in self.milestones:
            if milestone <= 0 or milestone >= epochs or (milestone > 1 and milestone != int(milestone)):
                raise ConfigurationError(
                    f"training.milestones has {milestone:g}; with {epochs} epochs each must be an epoch "
                    f"from 1 to {epochs - 1} or a share of the epochs between 0 and 1"
                )

    def epochs_of(self, task: int) -> int:
        """Epochs of the task at index `task`."""
        return self.epochs[task] if isinstance(self.epochs, list) else self.epochs

    def batch_size_of(self, task: int) -> int:
        """New images per step of the task at index `task`."""
        return self.batch_size if task or self.first_batch_size is None else self.first_batch_size

    def learning_rate(self, epoch: int, epochs: int) -> float:
        """The rate during `epoch` (from 0) of `epochs`."""
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / (self.warmup + 1)
        if self.schedule == "cosine":
            done = (epoch - self.warmup) / (epochs - self.warmup)
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "multistep":
            passed = sum(epoch >= (m * epochs if m < 1 else m) for m in self.milestones)
            return self.lr * self.decay**passed
        return self.lr

    def build_optimizer(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        """A fresh optimiser; each group keeps its `lr_scale`, by which the rate of an epoch is multiplied."""
        described = [
            {
                "params": list(group.parameters),
                "lr_scale": group.lr_scale,
                "weight_decay": self.weight_decay if group.weight_decay is None else group.weight_decay,
            }
            for group in groups
        ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(described, self.lr, fused=True)
        return torch.optim.SGD(described, self.lr, self.momentum, fused=True)
