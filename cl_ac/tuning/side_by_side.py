"""Several networks of one make as one network, whose exits read what all of them see."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import nn

from cl_ac.backbones.branching import Branched
from cl_ac.network import ExitNetwork


def side_by_side(networks: Sequence[ExitNetwork]) -> ExitNetwork:
    """The network in which every stage of each of `networks` reads what its own earlier stages gave.

    Channels are joined in the order of the networks. The heads are the last one's and read its features alone, but all
    of them where they normalise: on tokens, or for cosines.

    Args:
        networks: their stages can branch (`backbones.branching.make_branching`) and have not; they are taken to
            pieces, so hand copies.
    """
    joined, others = networks[-1], len(networks) - 1
    for stages in zip(*(network.backbone.stages for network in networks), strict=True):
        branched = [cast(Branched, stage) for stage in stages]
        branched[-1].branches = nn.ModuleList(stage.branches[0] for stage in branched)
    for head in joined.heads:
        classifier = head.classifier
        for name in ("old_weight", "new_weight"):
            rows = getattr(classifier, name)
            padded = F.pad(rows.detach(), (others * rows.shape[1], 0))
            setattr(classifier, name, nn.Parameter(padded, requires_grad=False))
    joined.measure()
    return joined
