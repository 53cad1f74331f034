"""Gates on the units of a backbone: the channels of convolutions and the features of linear layers.

Shapes: B batch, P backbone parameters, U units of all gates, in the order of the modules.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone


class Gate(nn.Module):
    """Multiplies each unit by a value of its own; 1 until other values are put in its place.

    Args:
        units: how many there are.
        axis: where they stand in a batch.
    """

    value: Tensor

    def __init__(self, units: int, axis: int):
        super().__init__()
        self.axis = axis
        self.register_buffer("value", torch.ones(units))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.shaped(self.value, hidden)

    def shaped(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Values [units] so that they are multiplied with `hidden` along its units."""
        return values if self.axis == -1 else values.view(-1, *[1] * (hidden.ndim - 2))


def make_gated(backbone: Backbone) -> None:
    """Puts a gate behind each convolution and linear layer, or behind the batch norm that follows it.

    Raises:
        ConfigurationError: if the backbone has layers of other kinds, which would mix closed units with open ones.
    """
    for name, module in backbone.named_modules():
        known = isinstance(module, _ConvNd | nn.Linear | _BatchNorm) and not isinstance(module, _ConvTransposeNd)
        if next(module.parameters(recurse=False), None) is not None and not known:
            raise ConfigurationError(
                f"the units of the backbone {type(backbone).__name__} cannot be gated, since '{name}' is a "
                f"{type(module).__name__}; choose one of convolutions, linear layers and batch norm"
            )
    followed: set[nn.Module] = set()
    with _chains(backbone, followed_by=lambda layer, norm: followed.add(layer)):
        backbone.shapes()
    for name, module in list(backbone.named_modules()):
        if isinstance(module, _BatchNorm):
            gate = Gate(module.num_features, 1)
        elif isinstance(module, _ConvNd) and module not in followed:
            gate = Gate(module.out_channels, 1)
        elif isinstance(module, nn.Linear) and module not in followed:
            gate = Gate(module.out_features, -1)
        else:
            continue
        backbone.set_submodule(name, nn.Sequential(module, gate))


def gates(backbone: Backbone) -> dict[str, Gate]:
    """All gates by name, in the order of their units."""
    return {name: module for name, module in backbone.named_modules() if isinstance(module, Gate)}


def split_units(backbone: Backbone, values: Tensor) -> dict[str, Tensor]:
    """Values [U] for each gate, by its name."""
    named = gates(backbone)
    return dict(zip(named, values.split([len(gate.value) for gate in named.values()]), strict=True))


@torch.no_grad()
def parameters_between(backbone: Backbone, units: Tensor) -> dict[str, Tensor]:
    """Which parameters lead from one of some units, or from the image, to one of them; masks by name.

    What a layer reads is found by a pass in which the chosen units give 1 and all others 0, whatever stands between:
    sums of branches, rectifiers, pooling.

    Args:
        units: bool [U].
    """
    chosen = dict(zip(gates(backbone).values(), split_units(backbone, units).values(), strict=True))
    masks = {parameter: torch.zeros_like(parameter, dtype=torch.bool) for parameter in backbone.parameters()}
    reads: dict[nn.Module, Tensor] = {}

    def see(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        axis = given[0].ndim - 1 if isinstance(layer, nn.Linear) else 1
        reads[layer] = (given[0] != 0).movedim(axis, 0).flatten(1).any(1)

    def close(gate: Gate, layers: list[nn.Module]) -> None:
        for layer in layers:
            # What a layer computes its weight from is its own too.
            for parameter in layer.parameters():
                to = chosen[gate].view(-1, *[1] * (parameter.ndim - 1))
                if parameter.ndim == 1:
                    masks[parameter] |= to
                else:
                    groups = getattr(layer, "groups", 1)
                    read = reads[layer].view(groups, 1, -1).expand(-1, len(parameter) // groups, -1).flatten(0, 1)
                    masks[parameter] |= to & read.view(*read.shape, *[1] * (parameter.ndim - 2))

    layers = [module for module in backbone.modules() if isinstance(module, _ConvNd | nn.Linear)]
    handles = [layer.register_forward_pre_hook(see) for layer in layers]
    handles += [
        gate.register_forward_hook(lambda gate, _, out: torch.ones_like(out) * gate.shaped(chosen[gate], out))
        for gate in chosen
    ]
    was_training = backbone.training
    backbone.eval()
    try:
        with _chains(backbone, closed_by=close):
            hidden = next(backbone.parameters()).new_ones(1, *backbone.image_shape)
            for stage in backbone.stages:
                hidden = stage(hidden)
    finally:
        backbone.train(was_training)
        for handle in handles:
            handle.remove()
    return {name: masks[parameter] for name, parameter in backbone.named_parameters()}


@contextmanager
def _chains(
    backbone: Backbone,
    followed_by: Callable[[nn.Module, nn.Module], None] = lambda layer, norm: None,
    closed_by: Callable[[Gate, list[nn.Module]], None] = lambda gate, layers: None,
) -> Iterator[None]:
    """Tells, while the backbone runs, which batch norm reads a layer's output, and which gate closes which layers."""
    # The outputs are kept, so that no other tensor gets their identity meanwhile.
    outputs: dict[int, tuple[Tensor, list[nn.Module]]] = {}

    def see(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        layers = outputs.get(id(given[0]), (None, []))[1]
        if isinstance(module, Gate):
            closed_by(module, layers)
            return
        if isinstance(module, _BatchNorm):
            for layer in layers:
                followed_by(layer, module)
            outputs[id(output)] = output, [*layers, module]
        else:
            outputs[id(output)] = output, [module]

    kinds = (_ConvNd, nn.Linear, _BatchNorm, Gate)
    handles = [module.register_forward_hook(see) for module in backbone.modules() if isinstance(module, kinds)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
