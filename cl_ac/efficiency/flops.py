"""What dynamic feed-forward networks (FFNs) cost, in multiply-accumulates (MACs); element-wise work is not counted."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from cl_ac.efficiency.dynamic import DynamicFFN, Recording, dynamic_ffns
from cl_ac.exits.cost import counted


class LayerCost(NamedTuple):
    """MACs of one FFN for one token.

    Args:
        dense: of the FFN before it was cut.
        expert: of each expert that runs.
        router: of the router.
    """

    dense: float
    expert: float
    router: float

    def of(self, experts: Tensor | float) -> Tensor | float:
        """MACs of a token that runs so many experts."""
        return experts * self.expert + self.router


def layer_cost(ffn: DynamicFFN) -> LayerCost:
    """The costs of a dynamic FFN; the router's are counted on one token."""
    _, neurons, width = ffn.up.shape
    matrices = 2 if ffn.gate_weight is None else 3
    token = ffn.up.new_zeros(1, width)
    router, _ = counted(lambda: ffn.router(token))
    return LayerCost(matrices * width * ffn.hidden, matrices * width * neurons, router)


def relative_cost(share: float, width: int, hidden: int, experts: int, router_hidden: int, matrices: int = 2) -> float:
    """The closed form for routers of two layers: `k/E + (D·w + w·E) / (matrices · D · F)`.

    Args:
        share: of the experts that run, k/E.
        width: D.
        hidden: F.
        experts: E.
        router_hidden: w.
        matrices: 2, or 3 for a GLU.
    """
    return share + router_hidden * (width + experts) / (matrices * width * hidden)


def relative_ffn_cost(model: nn.Module, recordings: Mapping[str, Recording]) -> float:
    """Recorded cost of all dynamic FFNs of `model`, routers included, relative to the dense FFNs."""
    spent = dense = 0.0
    for name, ffn in dynamic_ffns(model).items():
        cost = layer_cost(ffn)
        for counts in recordings[name].counts:
            spent += cost.of(counts.double()).sum().item()
            dense += cost.dense * counts.numel()
    return spent / dense if dense else 1.0


# The formula reads the mask itself, not only its shape: every flop counter then knows what is executed.
@register_flop_formula(torch.ops.cl_ac.sparse_ffn, get_raw=True)
def _executed_flops(x: Tensor, mask: Tensor, up: Tensor, down: Tensor, *others, out_val=None, **named) -> int:
    _, neurons, width = up.shape
    _, _, _, gate, *_ = others
    return 2 * (2 if gate is None else 3) * width * neurons * int(mask.sum())
