"""How an encoder learns from pairs: the settings, and one fit. Shapes: P pairs, B pairs of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cl_ac.data.seeding import generator, global_stream
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.training.fitting import grouped, scaled
from cl_ac.training.settings import ParameterGroup, Training


@dataclass(frozen=True)
class ContrastiveTraining:
    """How each domain is learned, and how projections are aligned before the first.

    Args:
        epochs: of every domain.
        batch_size: pairs in each step.
        optimizer: `sgd` or `adamw`; created anew for each domain.
        lr: learning rate at the start of a domain.
        momentum: of SGD.
        weight_decay: of either optimiser.
        schedule: `cosine` lowers the rate to 0, `constant` keeps it.
        clip: largest norm of the gradient; 0 does not clip.
        align_epochs: epochs of the projections on the base domains, with both towers as they are.
        align_lr: learning rate at their start.
    Raises:
        ConfigurationError: if a number is out of range.
    """

    epochs: int = 5
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    align_epochs: int = 20
    align_lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.align_epochs < 0 or self.align_lr <= 0:
            raise ConfigurationError(
                f"training.align_epochs is {self.align_epochs} and training.align_lr {self.align_lr:g}; the first must "
                "be at least 0, the other above 0"
            )
        _ = self.of_domains

    @property
    def of_domains(self) -> Training:
        """The settings of the fit of a domain."""
        return self._settings(self.epochs, self.lr)

    @property
    def of_alignment(self) -> Training:
        """The settings of the fit before the first domain."""
        return self._settings(self.align_epochs, self.align_lr)

    def _settings(self, epochs: int, lr: float) -> Training:
        return Training(
            epochs=epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            clip=self.clip,
        )


@dataclass(frozen=True)
class PairFit:
    """One fit.

    Args:
        stage: its number; names its random streams.
        pairs: how many there are: P.
        loss: of the pairs at some indices [B], with a stream for random draws.
        module: in training mode meanwhile.
        learns: what moves.
        scales: factors on the rate of some of it.
        training: its settings.
        seed: of the run.
    """

    stage: int
    pairs: int
    loss: Callable[[Tensor, torch.Generator], Tensor]
    module: nn.Module
    learns: Sequence[nn.Parameter]
    scales: dict[nn.Parameter, float]
    training: Training
    seed: int


def fit(wanted: PairFit, state: dict[str, Any] | None, on_epoch: Callable[[dict[str, Any], float], None]) -> None:
    """Learns, epoch by epoch.

    Args:
        state: of `on_epoch`, to go on from.
        on_epoch: is given all that is needed to go on, and the mean loss, after each epoch.
    Raises:
        UserError: if the loss is no longer a number.
    """
    training, learns = wanted.training, list(wanted.learns)
    groups = scaled(grouped([ParameterGroup(learns)]), wanted.scales)
    optimizer = training.build_optimizer(groups)
    done, steps = 0, 0
    if state is not None:
        done, steps = state["epoch"], state["steps"]
        optimizer.load_state_dict(state["optimizer"])
    epochs = training.epochs_of(wanted.stage)
    for epoch in range(done, epochs):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(epoch, epochs) * group["lr_scale"]
        order = torch.randperm(wanted.pairs, generator=generator(wanted.seed, "pairs", wanted.stage, epoch))
        wanted.module.train()
        losses = []
        with global_stream(wanted.seed, "towers", wanted.stage, epoch):
            for step, chosen in enumerate(order.split(training.batch_size)):
                stream = generator(wanted.seed, "contrast", wanted.stage, epoch, step)
                loss = wanted.loss(chosen, stream)
                optimizer.zero_grad()
                loss.backward()
                if training.clip:
                    nn.utils.clip_grad_norm_(learns, training.clip)
                optimizer.step()
                losses.append(loss.detach())
        steps += len(losses)
        mean = torch.stack(losses).mean().item()
        if not torch.isfinite(torch.tensor(mean)):
            where, rate = (f"domain {wanted.stage}", "lr") if wanted.stage else ("the alignment", "align_lr")
            raise UserError(
                f"the loss is no longer finite in epoch {epoch + 1} of {where}; lower training.{rate} (now "
                f"{training.lr:g})"
            )
        on_epoch(
            {"epoch": epoch + 1, "steps": steps, "best": None, "optimizer": optimizer.state_dict(), "scaler": {}}, mean
        )
    wanted.module.eval()
