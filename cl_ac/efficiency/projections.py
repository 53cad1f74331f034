"""Attention projections as MLPs, distilled from the linear layers they replace, so that they too can become experts.

Source: D2DMoE (Szatkowski et al., NeurIPS 2024, arXiv 2310.04361), section 3.1. Legend: D model width.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.attention import KINDS, Kind
from cl_ac.backbones.feed_forward import evaluating, linear_weights
from cl_ac.backbones.vit import MLP
from cl_ac.data.seeding import global_stream
from cl_ac.efficiency.observation import call, check_repeatable, observed
from cl_ac.efficiency.padding import RealTokens
from cl_ac.efficiency.sparsify import Sparsify, Sparsity
from cl_ac.efficiency.split_attention import split_projections
from cl_ac.errors import ConfigurationError, unknown


@dataclass(frozen=True)
class Projections:
    """How attention projections become MLPs.

    Args:
        which: kinds to replace.
        cost: multiply-accumulates of an MLP, as a share of the layer it replaces.
        residual: whether the MLP's input is added to its output.
        activation: of the MLPs.
        dropout: share of the hidden and output values that distillation zeroes.
        epochs: passes over the data.
        lr: rate of AdamW.
        sparsify: the loss on the MLPs' hidden neurons beside the squared error.
    """

    which: tuple[Kind, ...] = KINDS
    cost: float = 1.0
    residual: bool = False
    activation: Literal["relu", "gelu"] = "relu"
    dropout: float = 0.05
    epochs: int = 3
    lr: float = 1e-3
    sparsify: Sparsify = Sparsify("hoyer", 0.001, "linear")

    def __post_init__(self) -> None:
        for kind in self.which:
            if kind not in KINDS:
                raise ConfigurationError(unknown("kind of projection in projections.which", kind, KINDS))
        if self.cost <= 0 or self.epochs < 1 or self.lr <= 0:
            raise ConfigurationError(
                f"projections has cost {self.cost:g}, epochs {self.epochs} and lr {self.lr:g}; each must be above 0"
            )
        rectified = {"hoyer": True, "l1": True, "clamped": False, "clamped_hoyer": False}.get(self.sparsify.loss)
        if rectified not in (None, self.activation == "relu"):
            raise ConfigurationError(
                f"projections.sparsify.loss is '{self.sparsify.loss}', but projections.activation is "
                f"'{self.activation}'; hoyer and l1 need relu, the clamped losses gelu"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigurationError(f"projections.dropout is {self.dropout:g}; it must be at least 0 and below 1")


class Batches(Protocol):
    """What can be gone through again and again, and knows how many batches it holds."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class Residual(nn.Module):
    """Adds a layer's input to its output."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.inner(hidden)


def hidden_neurons(width: int, cost: float = 1.0) -> int:
    """Neurons at which an MLP of `width` costs `cost` times a square linear layer: φ (D² + D) / (2 D + 1), rounded."""
    return max(1, round(cost * (width * width + width) / (2 * width + 1)))


def distil_projections(
    model: nn.Module,
    batches: Batches,
    settings: Projections = Projections(),
    seed: int = 0,
    forward: Callable[[nn.Module, Any], object] = call,
) -> list[dict[str, float]]:
    """Replaces attention projections of `model` by MLPs that learned to give what the projections give.

    The model runs once per batch, frozen and in evaluation mode; each MLP learns from the input and the output of the
    projection it will replace, so no error of one MLP reaches another. The loss is the mean over projections of the
    squared error, plus that of the sparsity loss.

    Args:
        batches: gone through anew in each epoch.
        settings: of the MLPs and of their training.
        seed: of initial weights and dropout.
        forward: runs the model on a batch; by default a mapping is handed to it as keyword arguments.

    Returns:
        For each epoch, the mean squared error of each MLP by the path of its projection.

    Raises:
        ConfigurationError: if the model has no projection of these kinds, or batches can be gone through only once.
    """
    check_repeatable(batches)
    projections = [path for path, kind in split_projections(model).items() if kind in settings.which]
    if not projections:
        raise ConfigurationError(
            f"the model {type(model).__name__} has no attention projection of the kinds {', '.join(settings.which)}"
        )
    with global_stream(seed, "projections"):
        layers = {path: _replacement(model.get_submodule(path), settings) for path in projections}
        errors = _train(model, layers, batches, settings, forward)
    for path, layer in layers.items():
        model.set_submodule(path, layer.train(model.training))
    return errors


def _replacement(layer: nn.Module, settings: Projections) -> nn.Module:
    weight, bias = linear_weights(layer)
    neurons = hidden_neurons(len(weight), settings.cost)
    mlp = MLP(len(weight), neurons, settings.activation, settings.dropout, bias is not None)
    return (Residual(mlp) if settings.residual else mlp).to(weight.device, weight.dtype)


def _train(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Batches,
    settings: Projections,
    forward: Callable[[nn.Module, Any], object],
) -> list[dict[str, float]]:
    parameters = [parameter for layer in layers.values() for parameter in layer.parameters()]
    optimizer, errors = torch.optim.AdamW(parameters, settings.lr), []
    step, steps = 0, settings.epochs * len(batches)
    with evaluating(model), Sparsity(nn.ModuleList(layers.values()), settings.sparsify) as sparsity:
        for _ in range(settings.epochs):
            sums: dict[str, Tensor | float] = dict.fromkeys(layers, 0.0)
            for batch in batches:
                with recorded(model, layers) as seen, torch.no_grad():
                    forward(model, batch)
                optimizer.zero_grad()
                for path, (tokens, target) in seen.items():
                    error = F.mse_loss(layers[path](tokens), target)
                    # One backward pass per MLP: the graph of a single one is held at a time.
                    ((error + sparsity.loss(step, steps)) / len(layers)).backward()
                    sums[path] += error.detach()
                optimizer.step()
                step += 1
            errors.append({path: float(total) / len(batches) for path, total in sums.items()})
    return errors


@contextmanager
def recorded(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Input and output of each layer, without padding, as of the model's last call while the context was open."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def record(path: str, tokens: Tensor, output: Tensor) -> None:
        seen[path] = real.only(tokens.detach()), real.only(output.detach())

    with RealTokens(model) as real, observed({path: model.get_submodule(path) for path in paths}, record):
        yield seen
