"""Noise on gradients, by way of a loss whose value it leaves alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data.batches import Batch
from cl_ac.network import ExitNetwork


def with_gradient_noise(loss: Tensor, network: ExitNetwork, batch: Batch, deviation: float) -> Tensor:
    """`loss` [E], whose value stays and whose gradient gets normal noise of that deviation, once for all exits.

    The backbone and each head, counted from the final one, have a stream of their own: the final exit meets the same
    noise with any number of ACs.
    """
    if not deviation:
        return loss
    total = loss.new_zeros(())
    for index, module in enumerate((network.backbone, *reversed(network.heads))):
        stream = torch.Generator(loss.device).manual_seed(batch.stream(index).initial_seed())
        for parameter in module.parameters():
            if parameter.requires_grad:
                drawn = torch.randn(parameter.shape, generator=stream, device=loss.device)
                total = total + (parameter * drawn).sum()
    total = deviation * total
    return loss + F.pad((total - total.detach())[None], (len(loss) - 1, 0))
