"""The threshold of the max rule that keeps a model's feed-forward networks (FFNs) within a budget.

The rule is a threshold on each prediction relative to the largest of its token. So one histogram per FFN tells how many
experts run at every threshold.

Legend: K thresholds.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import layer_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.observation import call, check_repeatable
from cl_ac.errors import ConfigurationError, UserError

THRESHOLDS = torch.logspace(-6, 0, 2401, dtype=torch.float64)


@torch.no_grad()
def costs_by_threshold(model: nn.Module, inputs: Iterable[Any]) -> dict[str, Tensor]:
    """Cost of each FFN at each of `THRESHOLDS`, its router included, relative to all dense FFNs: float64 [K] by path.

    Inputs run through the model at its present gates, so what deeper FFNs see is exact at those gates' thresholds only.

    Raises:
        ConfigurationError: if no token comes to a dynamic FFN.
    """
    ffns = dynamic_ffns(model)
    costs = {name: layer_cost(ffn) for name, ffn in ffns.items()}
    spent, dense = {name: torch.zeros_like(THRESHOLDS) for name in ffns}, 0.0
    for batch in inputs:
        with recording(model, with_thresholds=True) as recordings:
            call(model, batch)
        for name, recorded in recordings.items():
            cost = costs[name]
            for thresholds in recorded.thresholds:
                tokens, together = thresholds[..., 0].numel(), len(ffns[name].up) // thresholds.shape[-1]
                spent[name] += cost.expert * together * _reaching(thresholds.flatten().cpu()) + cost.router * tokens
                dense += cost.dense * tokens
    if not dense:
        raise ConfigurationError("there are no inputs to find a threshold on, or no token reaches a dynamic FFN")
    return {name: each / dense for name, each in spent.items()}


def _reaching(values: Tensor) -> Tensor:
    """How many of the values [N] reach each of `THRESHOLDS` [K]."""
    # Compared in fp32, as the rule does.
    places = torch.searchsorted(THRESHOLDS.float(), values, right=True)
    below = places.bincount(minlength=len(THRESHOLDS) + 1).cumsum(0)
    return (len(values) - below[:-1]).double()


def tau_for_budget(model: nn.Module, inputs: Iterable[Any], budget: float, rounds: int = 3) -> float:
    """The smallest threshold at which the FFNs of `model` keep to a budget on `inputs`; the model then has it.

    Kept as well as the last round changes little for deeper FFNs.

    Args:
        inputs: batches, gone through once per round; a mapping is handed to the model as keyword arguments.
        budget: cost relative to the dense FFNs, routers included.
        rounds: after the first, in which all experts run, inputs pass at the threshold found so far.

    Raises:
        ConfigurationError: if inputs can be gone through only once, or no token comes to a dynamic FFN.
        UserError: if even the single best expert for each token costs more.
    """
    check_repeatable(inputs)
    threshold = 0.0
    for _ in range(rounds):
        set_gate(model, Gate("max", threshold))
        cost = torch.stack(list(costs_by_threshold(model, inputs).values())).sum(0)
        affordable = (cost <= budget + 1e-9).nonzero()[:, 0]
        if not len(affordable):
            raise UserError(f"the budget is {budget:g}; the cheapest that these experts can do is {cost.min():.3g}")
        threshold = THRESHOLDS[affordable[0]].item()
    set_gate(model, Gate("max", threshold))
    return threshold
