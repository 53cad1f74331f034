"""Several networks of one make as one network, whose exits read what all of them see.

Shapes: D_i features of exit i of one network.
"""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import nn

from cl_ac.backbones.branching import Branched, channel_axis
from cl_ac.data.layouts import Layout
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, ExitNetwork


def check_layouts(backbone: Backbone) -> None:
    """Raises a `ConfigurationError` if what the axes of a stage's output are cannot be known."""
    for name, layout in zip(backbone.stage_names, backbone.layouts(), strict=True):
        if layout is None:
            raise ConfigurationError(
                f"what the stage '{name}' of the backbone {type(backbone).__name__} gives cannot stand beside "
                "another's, since what its axes are cannot be known; say it in backbone.layouts"
            )


def side_by_side(networks: Sequence[ExitNetwork]) -> ExitNetwork:
    """The network in which every stage of each of `networks` reads what its own earlier stages gave.

    Channels are joined in the order of the networks. The last one's linear heads answer, from its features alone; on
    tokens an AC normalises the features of all together.

    Args:
        networks: they are taken to pieces, so hand copies.
    """
    joined, others = networks[-1], len(networks) - 1
    backbone, layouts = joined.backbone, cast(list[Layout], joined.stage_layouts)
    backbone.known_layouts = dict(zip(backbone.stage_names, layouts, strict=True))
    for index, stage in enumerate(backbone.stages):
        divides = None if index == 0 else channel_axis(layouts[index - 1])
        together = Branched(stage, channel_axis(layouts[index]), divides)
        together.branches = nn.ModuleList(network.backbone.stages[index] for network in networks)
        backbone.stages[index] = together.eval()
    for head in joined.heads:
        classifier = head.classifier
        for name in ("old_weight", "new_weight"):
            rows = getattr(classifier, name)
            padded = F.pad(rows.detach(), (others * rows.shape[1], 0))
            setattr(classifier, name, nn.Parameter(padded, requires_grad=False))
    joined.measure()
    return joined
