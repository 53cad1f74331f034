"""One fit: what is learned from what, and how its losses become steps."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.data.batches import Batch, TrainingSet
from cl_ac.network import ExitNetwork
from cl_ac.training.settings import ParameterGroup, Training

Loss = Callable[[ExitNetwork, Batch], Tensor]
Learning = Iterable[nn.Parameter | ParameterGroup]


@dataclass(frozen=True)
class Fit:
    """What one fit learns, from what, and how.

    Args:
        network: what the loss is asked about.
        loss: gives one value per exit; they are weighted by the network's exits and summed.
        data: what to iterate over.
        training: its settings; the run's by default.
        stage: name of its random streams; a second fit inside one task needs its own.
        parameters: what learns, alone or in groups with rates of their own; by default the network. Of all, what
            requires a gradient.
        exit_weights: the weight of each exit's loss, in place of the network's own.
        fixed_statistics: keep the network in evaluation mode, so that batch norm and dropout do nothing new.
        following: gives what goes with the network's weights, by name, such as parameters of a method's own: the best
            epoch's is kept too.
    """

    network: ExitNetwork
    loss: Loss
    data: TrainingSet
    training: Training | None = None
    stage: str = "task"
    parameters: Learning | None = None
    exit_weights: Sequence[float] | None = None
    fixed_statistics: bool = False
    following: Callable[[], Mapping[str, Tensor]] = dict


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


class Fitting:
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
        groups = []
        for group in scaled(grouped(learns), fit.network.backbone.lr_scales()):
            learning = [p for p in group.parameters if p.requires_grad and p.numel() and p not in silent]
            groups.append(replace(group, parameters=learning))
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.network, self.following, self.clip = fit.network, fit.following, training.clip
        self.optimizer = training.build_optimizer(groups)
        self.scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "float16")
        self.epoch, self.steps = 0, 0
        self.best: dict[str, Any] | None = None
        if state is not None:
            self.epoch, self.steps, self.best = state["epoch"], state["steps"], state["best"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])

    def set_learning_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

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
        """Keeps the network and all that goes with it as it is, if the network never was as accurate before."""
        if self.best is None or accuracy > self.best["accuracy"]:
            state = {"network": self.network.state_dict(), "following": self.following()}
            self.best = {"accuracy": accuracy, **{name: _cloned(values) for name, values in state.items()}}

    def take_best(self) -> None:
        """Gives the network, and what goes with it, back the best values that were kept, if any were."""
        if self.best is not None:
            self.network.load_state_dict(self.best["network"])
            with torch.no_grad():
                for name, value in self.following().items():
                    value.copy_(self.best["following"][name])

    def state_dict(self) -> dict[str, Any]:
        """What `__init__` goes on from."""
        progress = {"epoch": self.epoch, "steps": self.steps, "best": self.best}
        return {**progress, "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}


def grouped(learns: Learning) -> list[ParameterGroup]:
    """What learns in groups; parameters that stand alone come first, in one group."""
    every = list(learns)
    groups = [each for each in every if isinstance(each, ParameterGroup)]
    alone = [each for each in every if not isinstance(each, ParameterGroup)]
    return [*([ParameterGroup(alone)] if alone or not groups else []), *groups]


def scaled(groups: Sequence[ParameterGroup], scales: Mapping[nn.Parameter, float]) -> list[ParameterGroup]:
    """`groups`, divided by the factors on the rate in `scales`; a parameter that is not named there keeps its rate."""
    divided = []
    for group in groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group.parameters:
            parts.setdefault(scales.get(parameter, 1.0), []).append(parameter)
        divided += [replace(group, parameters=part, lr_scale=scale * group.lr_scale) for scale, part in parts.items()]
    # An optimiser needs a group, also of nothing.
    return divided or list(groups)


def _cloned(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
