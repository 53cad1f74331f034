"""FDR: probabilities of exemplars stay near those that the network gave them at the end of their task."""

import torch
from torch import Tensor

from cl_ac.approach import Batch, ExitNetwork
from cl_ac.approaches.derpp import DER
from cl_ac.losses import cross_entropy, function_distance


class FDR(DER):
    """Function distance regularisation (Benjamin et al., 2019): `CE(new) + α mean ‖p(exemplars) − stored p‖₂`.

    Probabilities are stored as DER stores logits: in evaluation mode, without augmentation. Classes unseen at storage
    count with a probability of 0, so that no exemplar is taken for a new class. (Public code takes two steps for each
    batch, one for each term, and forgets α.)

    The distance has hardly any gradient left where an exemplar is surely taken for another class: too small an α, as
    the published one can be, holds nothing.

    Args:
        strength: weight of the distance (α).
    """

    family = "replay"

    copes_with = frozenset({"repeated classes"})

    def __init__(self, strength: float = 1.0):
        super().__init__(strength)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        loss = cross_entropy(network(batch.images), batch.targets, batch.task.seen_classes)
        if batch.task.is_first:
            return loss
        exemplars = batch.replay[0]
        logits, stored = network(exemplars.images), exemplars.extras["logits"].transpose(0, 1)
        unknown = torch.arange(logits.shape[-1], device=logits.device) >= exemplars.extras["classes_known"][:, None]
        stored = stored.masked_fill(unknown, -torch.inf)
        return loss + self.strength * function_distance(logits, stored)
