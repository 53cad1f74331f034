"""The threshold of the max rule that keeps a model's feed-forward networks (FFNs) within a budget.

The rule is a threshold on each prediction relative to the largest of its token. So one histogram of these ratios per
FFN tells how many experts run at every threshold.

Legend: K thresholds.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import layer_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.errors import UserError

THRESHOLDS = torch.logspace(-6, 0, 2401, dtype=torch.float64)


@torch.no_grad()
def cost_by_threshold(model: nn.Module, inputs: Iterable[Any]) -> Tensor:
    """Cost of all FFNs at each of `THRESHOLDS` relative to the dense FFNs, routers included: float64 [K].

    Inputs run through the model at its present gate, so what deeper FFNs see is exact at that gate's threshold only.
    """
    ffns = dynamic_ffns(model)
    costs = {name: layer_cost(ffn) for name, ffn in ffns.items()}
    spent, dense = torch.zeros_like(THRESHOLDS), 0.0
    for batch in inputs:
        with recording(model, with_ratios=True) as recordings:
            model(batch)
        for name, recorded in recordings.items():
            for ratios in recorded.ratios:
                tokens, cost = ratios[..., 0].numel(), costs[name]
                spent += cost.expert * _reaching(ratios.flatten().cpu()) + cost.router * tokens
                dense += cost.dense * tokens
    return spent / dense if dense else torch.ones_like(spent)


def _reaching(ratios: Tensor) -> Tensor:
    """How many ratios reach each of `THRESHOLDS` [K]."""
    # Compared in fp32, as the rule does.
    places = torch.searchsorted(THRESHOLDS.float(), ratios, right=True)
    below = places.bincount(minlength=len(THRESHOLDS) + 1).cumsum(0)
    return (len(ratios) - below[:-1]).double()


def tau_for_budget(model: nn.Module, inputs: Iterable[Any], budget: float, rounds: int = 3) -> float:
    """The smallest threshold at which the FFNs of `model` keep to a budget on `inputs`; the model then has it.

    Args:
        inputs: batches, gone through once per round.
        budget: cost relative to the dense FFNs, routers included.
        rounds: after the first, in which all experts run, inputs pass at the threshold found so far.

    Raises:
        UserError: if even the single best expert for each token costs more.
    """
    threshold = 0.0
    for _ in range(rounds):
        set_gate(model, Gate("max", threshold))
        cost = cost_by_threshold(model, inputs)
        affordable = (cost <= budget + 1e-9).nonzero()[:, 0]
        if not len(affordable):
            raise UserError(f"the budget is {budget:g}; the cheapest that these experts can do is {cost.min():.3g}")
        threshold = THRESHOLDS[affordable[0]].item()
    set_gate(model, Gate("max", threshold))
    return threshold
