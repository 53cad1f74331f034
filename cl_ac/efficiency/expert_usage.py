"""Which experts of a converted network run, and how sparse the neurons of a dense one are.

Shapes: E experts, B experts or bundles of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.efficiency.dynamic import recording
from cl_ac.efficiency.observation import observed
from cl_ac.efficiency.sparsify import Counts, count_sparsity
from cl_ac.network import ExitNetwork


@dataclass(frozen=True)
class ExpertUsage:
    """What the experts of each FFN are used for, by the FFN's path.

    Args:
        load: share of calibration tokens that ask for each expert [E].
        images: some test images [images, channels, height, width].
        masks: experts or bundles that each of their tokens executes, bool [images, tokens, B].
    """

    load: dict[str, Tensor]
    images: Tensor
    masks: dict[str, Tensor]


@torch.no_grad()
def expert_usage(network: ExitNetwork, calibration: Tensor, images: Tensor) -> ExpertUsage:
    """What `network` executes on calibration images and on images to show."""
    with recording(network) as calibrated:
        network(calibration)
    with recording(network) as shown:
        network(images)
    load = {name: each.load.cpu() / each.counts[0].numel() for name, each in calibrated.items()}
    masks = {name: each.mask.cpu().unflatten(0, each.counts[0].shape).flatten(1, -2) for name, each in shown.items()}
    return ExpertUsage(load, images.cpu(), masks)


@torch.no_grad()
def neuron_sparsity(network: ExitNetwork, images: Tensor) -> dict[str, Counts]:
    """How sparse the hidden activations of each dense FFN of `network` are, by its path."""
    counts: dict[str, Counts] = {}
    activations = {name: each.activation_module for name, each in find_feed_forwards(network).items()}
    with observed(activations, lambda name, before, after: counts.update({name: count_sparsity([after])})):
        network(images)
    return counts
