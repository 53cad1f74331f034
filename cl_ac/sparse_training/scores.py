"""How much each weight matters at the start; the highest scores of all layers are kept.

Each function takes a network whose layers carry masks that are true everywhere, and gives one tensor for each layer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cl_ac.data.copying import copied
from cl_ac.network import ExitNetwork
from cl_ac.sparse_training.layers import MaskedLayer, masked_layers

# Of the softmax under which GraSP takes gradients, as its authors' code does.
TEMPERATURE = 200.0
# In which SynFlow reaches a density (Tanaka et al., 2020, section 6).
ROUNDS = 100


def magnitude(layers: Sequence[MaskedLayer]) -> list[Tensor]:
    """The size of each weight."""
    return [layer.original.detach().abs() for layer in layers]


def snip(layers: Sequence[MaskedLayer], loss: Callable[[float], Tensor]) -> list[Tensor]:
    """What the loss of one batch loses without the weight: |w ∂L/∂w| (Lee et al., 2019, SNIP, eq. 4)."""
    weights = [layer.original for layer in layers]
    gradients = torch.autograd.grad(loss(1.0), weights)
    return [(weight * gradient).detach().abs() for weight, gradient in zip(weights, gradients, strict=True)]


def grasp(layers: Sequence[MaskedLayer], loss: Callable[[float], Tensor]) -> list[Tensor]:
    """What the gradient's norm loses without the weight: w (H g) (Wang et al., 2020, GraSP, eq. 8).

    Args:
        loss: of one batch, at a temperature of the softmax.
    """
    weights = [layer.original for layer in layers]
    gradients = torch.autograd.grad(loss(TEMPERATURE), weights, create_graph=True)
    product = sum(((gradient.detach() * gradient).sum() for gradient in gradients), torch.zeros(()))
    flows = torch.autograd.grad(product, weights)
    return [(weight * flow).detach() for weight, flow in zip(weights, flows, strict=True)]


def synflow(network: ExitNetwork, density: float) -> list[Tensor]:
    """How much of all that flows through the network passes the weight: w ∂R/∂w (Tanaka et al., 2020, SynFlow).

    R is the sum of the last features for an image of ones, where all parameters have their size in place of their
    value. Weights go in rounds; those that stay longer have higher scores. In float64, as R may be very large or small.
    """
    network = copied(network).double().eval().requires_grad_(True)
    layers = list(masked_layers(network.backbone))
    with torch.no_grad():
        for parameter in network.backbone.parameters():
            parameter.abs_()
    ones = torch.ones(1, *network.backbone.image_shape, dtype=torch.float64, device=network.device)
    total = sum(layer.size for layer in layers)
    scores = [torch.zeros_like(layer.original) for layer in layers]
    for index in range(ROUNDS):
        features = network.backbone.stages[0](ones)
        for stage in network.backbone.stages[1:]:
            features = stage(features)
        gradients = torch.autograd.grad(features.sum(), [layer.original for layer in layers])
        flows = [(layer.original * gradient).detach() for layer, gradient in zip(layers, gradients, strict=True)]
        flat = torch.cat([flow.flatten() for flow in flows])
        ranks = flat.argsort(stable=True).argsort().double().split([layer.size for layer in layers])
        left = round(total * density ** ((index + 1) / ROUNDS))
        for layer, score, rank in zip(layers, scores, ranks, strict=True):
            kept, rank = layer.mask.kept, rank.view_as(score)
            # What went in an earlier round keeps the lower score of that round.
            score.copy_(torch.where(kept, index + rank / total, score))
            kept &= rank >= total - left
    return scores
