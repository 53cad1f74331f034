"""Training: its settings, and the one epoch loop that every approach uses."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.data.loading import EpochBatches, Loader
from cl_ac.data.samples import Samples
from cl_ac.data.seeding import generator, global_stream
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork

Loss = Callable[[ExitNetwork, Batch], Tensor]


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
class Training:
    """How each task is trained.

    Args:
        epochs: epochs of every task, or a list with one number per task.
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
        select: keep the `last` epoch's weights, or the `best` on the validation samples (final exit's accuracy).
        precision: of the forward and backward pass; below float32 through autocast.
        channels_last: whether images and convolutions use the channels-last memory format, which is usually faster.
        workers: processes that decode images which do not fit in memory.
        first_batch_size: new images per step of the first task, which has no exemplars to draw; None for `batch_size`.
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
    select: Literal["last", "best"] = "last"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    workers: int = 4
    first_batch_size: int | None = None

    def __post_init__(self) -> None:
        counts = self.epochs if isinstance(self.epochs, list) else [self.epochs]
        if not counts or min(counts) < 1:
            raise ConfigurationError(f"training.epochs is {self.epochs}; every task needs at least 1 epoch")
        for name in ("batch_size", "lr", "decay"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"training.{name} is {getattr(self, name)}; it must be above 0")
        if self.first_batch_size is not None and self.first_batch_size < 1:
            raise ConfigurationError(f"training.first_batch_size is {self.first_batch_size}; it must be at least 1")
        for name in ("momentum", "weight_decay", "clip", "warmup", "workers"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"training.{name} is {getattr(self, name)}; it must be at least 0")
        if self.momentum >= 1:
            raise ConfigurationError(f"training.momentum is {self.momentum}; it must be below 1")
        for epochs in counts:
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

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """A fresh optimiser for `parameters`."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class Fit:
    """What one fit learns, from what, and how.

    Args:
        network: what the loss is asked about.
        loss: gives one value per exit; they are weighted by the network's exits and summed.
        data: what to iterate over.
        training: its settings; the run's by default.
        stage: name of its random streams; a second fit inside one task needs its own.
        parameters: what learns; by default all of the network that requires a gradient.
        exit_weights: the weight of each exit's loss, in place of the network's own.
        fixed_statistics: keep the network in evaluation mode, so that batch norm and dropout do nothing new.
    """

    network: ExitNetwork
    loss: Loss
    data: TrainingSet
    training: Training | None = None
    stage: str = "task"
    parameters: Iterable[nn.Parameter] | None = None
    exit_weights: Sequence[float] | None = None
    fixed_statistics: bool = False


@dataclass(frozen=True)
class EpochReport:
    """What an epoch came to.

    Args:
        epoch: its index, from 0, of `epochs`.
        epochs: epochs of the task.
        losses: mean loss of each exit [E].
        lr: learning rate.
        gradient_norm: mean over steps of the gradient's norm before clipping; None where `training.clip` is 0.
        validation: accuracy on the validation samples, where the best epoch is selected by it.
        seconds: time the epoch took.
        steps: steps since the task began.
        state: all that a later `fit` needs to go on from here.
    """

    epoch: int
    epochs: int
    losses: Tensor
    lr: float
    gradient_norm: float | None
    validation: float | None
    seconds: float
    steps: int
    state: dict[str, Any]


class _Fitting:
    """How far one fit is, and how its losses become steps: optimiser, clipping, and loss scaling in float16.

    Args:
        state: `EpochReport.state` to go on from.
    """

    def __init__(self, fit: Fit, training: Training, device: torch.device, state: dict[str, Any] | None):
        learns = fit.network.parameters() if fit.parameters is None else fit.parameters
        # Without a loss of its own, weight decay alone would change a head.
        weights = [*fit.network.exits.weights, 1.0] if fit.exit_weights is None else fit.exit_weights
        silent = {
            p for head, weight in zip(fit.network.heads, weights, strict=True) if not weight for p in head.parameters()
        }
        self.parameters = [p for p in learns if p.requires_grad and p.numel() and p not in silent]
        self.network, self.clip = fit.network, training.clip
        self.optimizer = training.build_optimizer(self.parameters)
        self.scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "float16")
        self.epoch, self.steps = 0, 0
        self.best: dict[str, Any] | None = None
        if state is not None:
            self.epoch, self.steps, self.best = state["epoch"], state["steps"], state["best"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])

    def set_learning_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self, loss: Tensor) -> Tensor | None:
        """One step down the gradient of `loss` []; returns the norm [] that clipping found, None without clipping."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        norm = None
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        return norm

    def consider(self, accuracy: float) -> None:
        """Keeps the network as it is, if it never was as accurate before."""
        if self.best is None or accuracy > self.best["accuracy"]:
            self.best = {"accuracy": accuracy, "network": _cloned(self.network.state_dict())}

    def take_best(self) -> None:
        """Gives the network back the best weights that were kept, if any were."""
        if self.best is not None:
            self.network.load_state_dict(self.best["network"])

    def state_dict(self) -> dict[str, Any]:
        """What `__init__` goes on from."""
        progress = {"epoch": self.epoch, "steps": self.steps, "best": self.best}
        return {**progress, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}


class Trainer:
    """Fits networks and reads them out, on one device, with random streams keyed by one seed.

    Args:
        training: settings of every fit that brings none of its own.
        augmentation: how uint8 images become inputs.
        device: where all of it runs.
        seed: of every random stream.
    """

    def __init__(self, training: Training, augmentation: Augmentation, device: torch.device, seed: int = 0):
        self.training, self.augmentation, self.device, self.seed = training, augmentation, device, seed

    def generator(self, purpose: str, *indices: int) -> torch.Generator:
        """A CPU generator for the random stream `purpose`, keyed by the run's seed."""
        return generator(self.seed, purpose, *indices)

    def with_training(self, **changes: Any) -> Training:
        """The run's training settings with some of them changed."""
        return replace(self.training, **changes)

    def loader(self, samples: Samples) -> Loader:
        """Batches of `samples` on the training device."""
        return Loader(samples, self.augmentation, self.device, self.training.workers)

    def fit(
        self,
        fit: Fit,
        *,
        state: dict[str, Any] | None = None,
        validate: Callable[[], float] | None = None,
        on_step: Callable[[ExitNetwork, int], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
    ) -> None:
        """Trains a network.

        Args:
            fit: what is learned, from what, and how.
            state: `EpochReport.state` to go on from.
            validate: accuracy to select the best epoch by, where `training.select` asks for it.
            on_step: called after every step with the network and the number of steps so far.
            on_epoch: called after every epoch.

        Raises:
            UserError: if there is nothing to learn from, or the loss, the weights or the answers become infinite or
                undefined.
        """
        training = self.training if fit.training is None else fit.training
        network, task = fit.network, fit.data.task.index
        if not len(fit.data.samples):
            raise UserError(f"task {task + 1} has no image to learn from (stage: {fit.stage}); give each task some")
        epochs = training.epochs_of(task)
        fitting = _Fitting(fit, training, self.device, state)
        batches = EpochBatches(
            fit.data, training.batch_size_of(task), self.loader, partial(self.generator, f"{fit.stage} order")
        )
        network.batch_norm_frozen = training.freeze_batch_norm and task > 0
        while fitting.epoch < epochs:
            began, epoch = time.perf_counter(), fitting.epoch
            lr = training.learning_rate(epoch, epochs)
            fitting.set_learning_rate(lr)
            weights = network.exits.weights_at(epoch, epochs) if fit.exit_weights is None else fit.exit_weights
            network.train(not fit.fixed_statistics)
            with global_stream(self.seed, f"{fit.stage} modules", task, epoch):
                losses, norm = self._steps(fit, fitting, batches(epoch), training, weights, on_step)
            finite = {"the loss is": bool(losses.isfinite().all()), "the weights are": _finite(fitting.parameters)}
            if epoch + 1 == epochs:
                # The last step may spoil answers after all losses were numbers: one more batch tells.
                finite["the answers are"] = self._answers_finite(fit, training)
            for what in (what for what, fine in finite.items() if not fine):
                raise UserError(
                    f"{what} no longer finite in epoch {epoch + 1} of task {task + 1}; "
                    f"lower training.lr (now {training.lr:g}) or training.clip (now {training.clip:g})"
                )
            accuracy = validate() if validate is not None and training.select == "best" else None
            if accuracy is not None:
                fitting.consider(accuracy)
            fitting.epoch += 1
            if on_epoch is not None:
                seconds = time.perf_counter() - began
                progress = fitting.steps, fitting.state_dict()
                on_epoch(EpochReport(epoch, epochs, losses, lr, norm, accuracy, seconds, *progress))
        fitting.take_best()
        network.eval()

    def _steps(
        self,
        fit: Fit,
        fitting: _Fitting,
        batches: Iterator[Batch],
        training: Training,
        weights: Sequence[float],
        on_step: Callable[[ExitNetwork, int], None] | None,
    ) -> tuple[Tensor, float | None]:
        """The steps of one epoch; returns each exit's mean loss [E] and the mean norm of the gradients."""
        exit_weights = torch.tensor(weights, device=self.device)
        total, count, norms = torch.zeros(len(fit.network), device=self.device), 0, []
        for batch in batches:
            with self.autocast(training), _one_image_refused(batch):
                losses = fit.loss(fit.network, batch)
            norms.append(fitting.step((losses * exit_weights).sum()))
            total += losses.detach()
            count += 1
            if on_step is not None:
                on_step(fit.network, fitting.steps)
        return (total / max(count, 1)).cpu(), _mean_norm(norms)

    @torch.no_grad()
    def _answers_finite(self, fit: Fit, training: Training) -> bool:
        """Whether the network, in evaluation mode, answers images of the training data with numbers."""
        few = torch.arange(min(len(fit.data.samples), training.batch_size))
        return bool(self.predict(fit.network, fit.data.samples.select(few).without_extras()).isfinite().all())

    def warm_up_heads(self, network: ExitNetwork, data: TrainingSet) -> None:
        """Trains what is new in the heads, as `training.head_warmup` says; nothing at the first task.

        Args:
            data: what the task is then trained on; images of old classes are left out.
        """
        warmup, task = self.training.head_warmup, data.task
        if task.is_first or not warmup.epochs:
            return

        def loss(network: ExitNetwork, batch: Batch) -> Tensor:
            with torch.no_grad():
                hidden = network.hidden(batch.images)
            return cross_entropy(network.classify(hidden), batch.targets, task.classes)

        settings = {"epochs": warmup.epochs, "lr": warmup.lr, "weight_decay": warmup.weight_decay}
        self.fit(
            Fit(
                network,
                loss,
                TrainingSet(data.samples.select(data.samples.targets >= task.classes.start), task),
                self.with_training(**settings, schedule="cosine", warmup=0, select="last"),
                stage="head warm-up",
                parameters=network.new_rows,
                exit_weights=network.exits.weights_of_heads,
                fixed_statistics=warmup.freeze_batch_norm,
            )
        )

    def autocast(self, training: Training | None = None):
        """The context in which forward passes run at the chosen precision."""
        precision = (self.training if training is None else training).precision
        if precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, precision))

    @torch.no_grad()
    def predict(self, network: ExitNetwork, samples: Samples, read: Callable[[Tensor], Any] | None = None) -> Any:
        """What the network says of `samples` in evaluation mode, in order, without augmentation.

        Args:
            read: maps a batch of images to a tensor [E, B, ...] or a list of tensors [B, ...]; logits by default.
        Returns:
            [E, N, ...] on the CPU, or a list of [N, ...].
        """
        was_training = network.training
        network.eval()
        batches, stacked = [], False
        for images in self.loader(samples).in_order(max(self.training.batch_size, 256)):
            with self.autocast():
                output = (network if read is None else read)(images)
            stacked = isinstance(output, Tensor)
            # A stacked output is one copy from the device, not one for each exit.
            batches.append(output.float().cpu() if stacked else [part.float().cpu() for part in output])
        network.train(was_training)
        joined = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        return torch.stack(joined) if stacked else joined

    def features(self, network: ExitNetwork, samples: Samples) -> list[Tensor]:
        """The feature vectors [N, D_i] that each exit's classifier reads."""
        return self.predict(network, samples, network.features)


def _finite(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether all values are numbers; one answer from the device for all."""
    return not parameters or bool(torch.stack([p.detach().isfinite().all() for p in parameters]).all())


@contextmanager
def _one_image_refused(batch: Batch) -> Iterator[None]:
    """Says what torch means where batch normalisation is to learn from a single value."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"batch normalisation cannot learn from a batch of {len(batch)} image whose feature maps are 1 × 1; set "
            f"training.batch_size to 2 or more, give task {batch.task.index + 1} more images, or take a backbone with "
            "larger maps"
        ) from error


def _mean_norm(norms: list[Tensor | None]) -> float | None:
    """The mean of gradient norms; steps that overflowed in float16, which the optimiser leaves out, do not count."""
    known = [norm for norm in norms if norm is not None]
    if not known:
        return None
    stacked = torch.stack(known)
    return stacked[stacked.isfinite()].mean().item()


def _cloned(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
