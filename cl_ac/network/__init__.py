"""Networks: backbones in stages, where exits hang at them, and the network that all exits answer for."""

from cl_ac.network.backbone import Backbone
from cl_ac.network.exit_network import ExitNetwork, batch_norms
from cl_ac.network.exits import NO_EXITS, Exits

__all__ = ["NO_EXITS", "Backbone", "ExitNetwork", "Exits", "batch_norms"]
