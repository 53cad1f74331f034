"""Backbone parameters that are held exactly as they are, elementwise, where methods own some weights for ever.

θ [P] is the vector of `gradients.protected`: all backbone parameters that learn.
"""

import torch
from torch import Tensor

from cl_ac.importance.gradients import protected
from cl_ac.network import ExitNetwork
from cl_ac.training import Learning, ParameterGroup


def split(network: ExitNetwork, values: Tensor) -> dict[str, Tensor]:
    """Values [P] as tensors of the parameters' shapes, by the parameters' names in `network`."""
    parameters = protected(network)
    parts = values.split([parameter.numel() for parameter in parameters.values()])
    return {name: part.view_as(parameters[name]) for name, part in zip(parameters, parts, strict=True)}


def held(network: ExitNetwork, mask: Tensor) -> dict[str, Tensor]:
    """The parameters as a loss should read them, so that no gradient reaches those where `mask` [P] is true.

    A gradient of zero keeps a parameter where it is under SGD with momentum and under AdamW, but not under weight
    decay: see `learning_without_decay`.
    """
    masks = split(network, mask)
    return {name: torch.where(masks[name], value.detach(), value) for name, value in protected(network).items()}


def learning_without_decay(network: ExitNetwork) -> Learning:
    """All parameters, the backbone's without weight decay, which would move those that are held."""
    return [ParameterGroup(network.backbone.parameters(), weight_decay=0.0), *network.heads.parameters()]
