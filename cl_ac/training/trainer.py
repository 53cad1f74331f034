"""The one epoch loop that every approach uses, and how networks are read out."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.data.loading import EpochBatches, Loader
from cl_ac.data.recognised import PIXELS_ON_CPU, Recall, at_once
from cl_ac.data.samples import Samples
from cl_ac.data.seeding import generator, global_stream
from cl_ac.errors import UserError
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork
from cl_ac.processes.group import ALONE, current
from cl_ac.processes.passes import sharing
from cl_ac.training.compiling import CompiledLoss
from cl_ac.training.fitting import EpochReport, Fit, Fitting
from cl_ac.training.settings import Training


class Trainer:
    """Fits networks and reads them out, on one device, with random streams keyed by one seed.

    Args:
        training: settings of every fit that brings none of its own.
        augmentation: how uint8 images become inputs.
        device: where all of it runs.
        seed: of every random stream.
        recall: what frozen stages made of images that come again; None computes it each time.
    """

    def __init__(
        self,
        training: Training,
        augmentation: Augmentation,
        device: torch.device,
        seed: int = 0,
        recall: Recall | None = None,
    ):
        self.training, self.augmentation, self.device, self.seed = training, augmentation, device, seed
        self.recall = recall
        self.group = current()

    def generator(self, purpose: str, *indices: int) -> torch.Generator:
        """A CPU generator for the random stream `purpose`, keyed by the run's seed."""
        return generator(self.seed, purpose, *indices)

    def with_training(self, **changes: Any) -> Training:
        """The run's training settings with some of them changed."""
        return replace(self.training, **changes)

    def loader(self, samples: Samples) -> Loader:
        """Batches of `samples` on the training device."""
        return Loader(samples, self.augmentation, self.device, self.training.workers, self.recall)

    def fit(
        self,
        fit: Fit,
        *,
        state: dict[str, Any] | None = None,
        validate: Callable[[], float] | None = None,
        on_step: Callable[[ExitNetwork, Batch, int], None] | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
    ) -> None:
        """Trains a network.

        Args:
            fit: what is learned, from what, and how.
            state: `EpochReport.state` to go on from.
            validate: accuracy to select the best epoch by, where `training.select` asks for it.
            on_step: called after every step with the network, the batch and the number of steps so far.
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
        fitting = Fitting(fit, training, self.device, state)
        order, draws = (partial(self.generator, f"{fit.stage} {what}") for what in ("order", "loss"))
        size = training.batch_size_of(task)
        batches = EpochBatches(fit.data, size, self.loader, order, draws, training.fixed_views, training.iterations)
        network.batch_norm_frozen = training.freeze_batch_norm and task > 0
        if training.compile is True and fit.stage == Fit.stage:
            # Stages beside a task's own are too short.
            fit = replace(fit, loss=CompiledLoss(fit.loss))
        while fitting.epoch < epochs:
            began, epoch = time.perf_counter(), fitting.epoch
            lr = training.learning_rate(epoch, epochs)
            fitting.set_learning_rate(lr)
            weights = network.exits.weights_at(epoch, epochs) if fit.exit_weights is None else fit.exit_weights
            network.train(not fit.fixed_statistics)
            with global_stream(self.seed, f"{fit.stage} modules", task, epoch):
                losses, norm = self._steps(fit, fitting, batches(epoch, epochs), training, weights, on_step)
            if self.device.type != "cpu":
                # Sums on an accelerator may come out in another order, and so in another last bit, on each.
                self.group.take_from_first([*network.parameters(), *network.buffers(), *fit.following().values()])
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
        fitting: Fitting,
        batches: Iterator[Batch],
        training: Training,
        weights: Sequence[float],
        on_step: Callable[[ExitNetwork, Batch, int], None] | None,
    ) -> tuple[Tensor, float | None]:
        """The steps of one epoch; returns each exit's mean loss [E] and the mean norm of the gradients."""
        exit_weights = torch.tensor(weights, device=self.device)
        total, count, norms = torch.zeros(len(fit.network), device=self.device), 0, []
        for batch in batches:
            passes = sharing(self.group, training.synchronise_batch_norm)
            with self.autocast(training), _one_image_refused(batch), passes:
                losses = fit.loss(fit.network, batch)
            if losses.shape != exit_weights.shape:
                raise UserError(
                    f"the loss of stage '{fit.stage}' has the shape {list(losses.shape)}; expected one value for each "
                    f"exit, {list(exit_weights.shape)}"
                )
            norms.append(fitting.step((losses * exit_weights).sum()))
            total += losses.detach()
            count += 1
            if on_step is not None:
                on_step(fit.network, batch, fitting.steps)
        return (total / max(count, 1)).cpu(), _mean_norm(norms)

    @torch.no_grad()
    def _answers_finite(self, fit: Fit, training: Training) -> bool:
        """Whether the network, in evaluation mode, answers images of the training data with numbers."""
        few = torch.arange(min(len(fit.data.samples), training.batch_size))
        return bool(self.predict(fit.network, fit.data.samples.select(few).without_extras()).isfinite().all())

    def warm_up_heads(
        self,
        network: ExitNetwork,
        data: TrainingSet | None,
        correct: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        """Trains what is new in the heads, as `training.head_warmup` says; nothing at the first task.

        Args:
            data: what the task is then trained on; images of old classes are left out. Without, nothing is warmed up.
            correct: what becomes of logits [E, B, C] before they answer, such as a temperature.
        """
        warmup = self.training.head_warmup
        # A head whose places for classes are fixed has no new rows.
        if data is None or data.task.is_first or not warmup.epochs or not any(p.numel() for p in network.new_rows):
            return
        task = data.task

        def loss(network: ExitNetwork, batch: Batch) -> Tensor:
            with torch.no_grad():
                hidden = network.hidden(batch.images)
            return cross_entropy(correct(network.classify(hidden)), batch.targets, task.classes)

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
        batches, stacked, group = [], False, self.group if len(samples) >= self.group.size else ALONE
        own = samples if group.size == 1 else samples.select(torch.arange(len(samples))[group.part(len(samples))])
        for images in self.loader(own).in_order(self.answered_at_once(own)):
            with self.autocast():
                output = (network if read is None else read)(images)
            stacked = isinstance(output, Tensor)
            # A stacked output is one copy from the device, not one for each exit.
            batches.append(output.float().cpu() if stacked else [part.float().cpu() for part in output])
        network.train(was_training)
        joined = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        if group.size > 1:
            joined = [group.gathered(part, len(samples)) for part in joined]
        return torch.stack(joined) if stacked else joined

    def answered_at_once(self, samples: Samples) -> int:
        """How many of `samples` a network without gradients had best see in one batch."""
        most = max(self.training.batch_size, 256)
        side = self.augmentation.output_shape(tuple(samples.images.shape[1:]))[1:]
        return most if self.device.type != "cpu" else min(most, at_once(side, PIXELS_ON_CPU))

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
        what, more = (
            "a batch of 1 image",
            f"training.batch_size to 2 or more, give task {batch.task.index + 1} more images",
        )
        if len(batch) > 1:
            what, more = "a single exemplar", "approach.replay to 2 or more"
        raise UserError(
            f"batch normalisation cannot learn from {what} whose feature maps are 1 × 1; set {more}, or take a "
            "backbone with larger maps"
        ) from error


def _mean_norm(norms: list[Tensor | None]) -> float | None:
    """The mean of gradient norms; steps that overflowed in float16, which the optimiser leaves out, do not count."""
    known = [norm for norm in norms if norm is not None]
    if not known:
        return None
    stacked = torch.stack(known)
    return stacked[stacked.isfinite()].mean().item()
