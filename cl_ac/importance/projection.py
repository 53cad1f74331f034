"""Gradients that are turned until, to first order, no reference loss rises.

Shapes: E exits, K references, P parameters that an exit depends on.
"""

import torch
from torch import Tensor

from cl_ac.importance.gradients import gradients, joined
from cl_ac.network import ExitNetwork

# Of several multipliers; those of twenty tasks whose gradients are much alike are then right to a thousandth.
ITERATIONS = 100


def constrained(
    network: ExitNetwork, losses: Tensor, references: Tensor, margin: float = 0.0, ridge: float = 0.0
) -> Tensor:
    """Losses of the same values whose gradients do not go against those of the references (Lopez-Paz & Ranzato, 2017).

    The gradient g of each exit becomes `g + Σ_k v_k g_k`, with g_k those of the same exit's references and v from
    `multipliers`: the projection of g onto what agrees with every g_k. It is the gradient of `L + Σ_k v_k L_k` with v
    held fixed, which costs (K + 1) · E backward passes beside the usual one.

    Args:
        losses: [E].
        references: [K, E].
        margin: see `multipliers`.
        ridge: see `multipliers`.
    Returns:
        [E].
    """
    against, among = [], []
    for loss, others, head in zip(losses, references.unbind(1), network.heads, strict=True):
        # Without the other exits' heads, in which there is no gradient, sums are the same however many there are.
        dependent = [*network.backbone.parameters(), *head.parameters()]
        parameters = [parameter for parameter in dependent if parameter.requires_grad and parameter.numel()]
        gradient, *of_others = (joined(gradients(each, parameters), loss.device) for each in (loss, *others))
        rows = torch.stack(of_others)  # [K, P]
        with torch.autocast(rows.device.type, enabled=False):
            against.append(rows @ gradient)
            among.append(rows @ rows.T)
    turned = (multipliers(torch.stack(among), torch.stack(against), margin, ridge).T * references).sum(0)
    return losses + turned - turned.detach()


def multipliers(among: Tensor, against: Tensor, margin: float = 0.0, ridge: float = 0.0) -> Tensor:
    """How much of each reference's gradient is added (Lopez-Paz & Ranzato, 2017, eq. 11).

    `argmin ½ vᵀ (A + ridge · I) v + bᵀ v` over `v ≥ margin`, and 0 where no b is negative, for each exit; by projected
    gradients with momentum (Beck & Teboulle, 2009), restarted where they turn back, so that the host is never asked.
    The published code, too, adds its margin to the multipliers.

    Args:
        among: A, the products of the references' gradients with each other [E, K, K].
        against: b, their products with the gradient [E, K].
        margin: least multiplier, where any reference would rise.
        ridge: what is added to the diagonal of A.
    Returns:
        [E, K].
    """
    identity = torch.eye(among.shape[-1], device=among.device)
    among = among + ridge * identity
    # In units in which every reference's gradient has length 1; one of length 0 stays out.
    diagonal = among.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    matrix, linear = scale[:, :, None] * among * scale[:, None], scale * against
    least = torch.where(diagonal > 0, margin * diagonal.sqrt(), 0.0)
    rate = 1 / matrix.abs().sum(-1).amax(-1, keepdim=True).clamp(min=1)
    found = ahead = least
    momentum = torch.ones_like(rate)
    # The first step to a single multiplier ends at it.
    for _ in range(ITERATIONS if among.shape[-1] > 1 else 1):
        step = ahead - rate * ((matrix * ahead[:, None]).sum(-1) + linear)
        before, found = found, torch.maximum(step, least)
        back = ((ahead - found) * (found - before)).sum(-1, keepdim=True) > 0
        momentum = torch.where(back, 1.0, momentum)
        following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        ahead = found + torch.where(back, 0.0, (momentum - 1) / following) * (found - before)
        momentum = following
    return torch.where((against < 0).any(-1, keepdim=True), scale * found, 0.0)
