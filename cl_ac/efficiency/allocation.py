"""A threshold of the max rule for each feed-forward network (FFN), raised where it changes a model's output least.

`budget.tau_for_budget` gives all FFNs the same one. Legend: K thresholds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cl_ac.efficiency.budget import THRESHOLDS, costs_by_threshold
from cl_ac.efficiency.dynamic import recording, set_gate
from cl_ac.efficiency.flops import relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.greedy import greedy
from cl_ac.efficiency.observation import call
from cl_ac.efficiency.padding import only_real, padding_mask
from cl_ac.errors import UserError

# Each raise of an FFN's threshold leaves this share of the cost that it could still save.
SHRINK = 0.75
# The last raise, to a single expert for each token, comes when this share is left.
LEFT = 0.02


class Measured(NamedTuple):
    """How a model runs at some thresholds.

    Args:
        cost: of all FFNs relative to the dense ones, routers included.
        error: distance of the model's output to that with all experts, as a share of the latter's norm.
    """

    cost: float
    error: float


@dataclass(frozen=True)
class Allocation:
    """A threshold for each dynamic FFN of a model, by its path, and how the model runs with them on `inputs`."""

    thresholds: Mapping[str, float]
    measured: Measured

    @property
    def gates(self) -> dict[str, Gate]:
        """What `set_gate` takes."""
        return gates_of(self.thresholds)


def gates_of(thresholds: Mapping[str, float]) -> dict[str, Gate]:
    """Gates with the max rule."""
    return {name: Gate("max", threshold) for name, threshold in thresholds.items()}


@torch.no_grad()
def allocate_thresholds(
    model: nn.Module,
    inputs: Iterable[Any],
    budget: float = 0.0,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Allocation]:
    """A greedy path from all experts to few; each step raises the threshold of one FFN.

    It is the FFN whose raise adds least error to the model's output for what it saves. Both are measured in the whole
    model, so that what a raise does to deeper FFNs counts: with L FFNs the path takes about 15 L² passes over the
    inputs. The model is left with the last thresholds that were tried.

    Args:
        inputs: batches; a mapping is handed to the model as keyword arguments. The model's output, or the first part
            of it, is a tensor.
        budget: cost relative to the dense FFNs, routers included, at which the path ends if it comes there.
        on_step: called with the steps done and those of the whole path, after each.

    Raises:
        ConfigurationError: if no token comes to a dynamic FFN.
    """
    batches = list(inputs)
    set_gate(model, Gate("max", 0.0))
    ladders = {name: _ladder(costs) for name, costs in costs_by_threshold(model, batches).items()}
    set_gate(model, Gate("all"))
    expected = [_output(model, batch) for batch in batches]
    steps = 1 + sum(map(len, ladders.values()))

    def raised(name: str, threshold: float) -> float | None:
        return next((each for each in ladders[name] if each > threshold), None)

    def measured(thresholds: Mapping[str, float]) -> Measured:
        set_gate(model, gates_of(thresholds))
        with recording(model) as recordings:
            pairs = zip(batches, expected, strict=True)
            changes = [_output(model, batch) - dense for batch, dense in pairs]
        return Measured(relative_ffn_cost(model, recordings), _norm(changes) / _norm(expected))

    def price(now: Measured, then: Measured) -> float:
        return (then.error - now.error) / max(now.cost - then.cost, 1e-12)

    path = []
    for thresholds, outcome in greedy(dict.fromkeys(ladders, 0.0), raised, measured, price):
        path.append(Allocation(thresholds, outcome))
        there = outcome.cost <= budget
        if on_step:
            on_step(len(path), len(path) if there else steps)
        if there:
            break
    return path


def within(path: Sequence[Allocation], budget: float) -> Allocation:
    """The first step of a path that costs no more than `budget`.

    Raises:
        UserError: if none does.
    """
    for step in path:
        if step.measured.cost <= budget + 1e-9:
            return step
    least = min(step.measured.cost for step in path)
    raise UserError(f"the budget is {budget:g}; the cheapest that these experts can do is {least:.3g}")


def _ladder(costs: Tensor) -> list[float]:
    """Ascending thresholds at which an FFN of these costs [K] leaves a geometric series of what it can save, and 1."""
    dearest, cheapest = costs[0], costs[-1]
    raises = math.floor(math.log(LEFT) / math.log(SHRINK))
    left = SHRINK ** torch.arange(1, raises + 1, dtype=torch.float64)
    places = (costs <= cheapest + (dearest - cheapest) * left[:, None]).int().argmax(1).unique()
    # Where nothing more is saved on these inputs, something may be on those that come from sparser FFNs.
    return [*THRESHOLDS[places[costs[places] > cheapest + 1e-12]].tolist(), 1.0]


def _output(model: nn.Module, batch: Any) -> Tensor:
    """The model's output or its first part, without that of padding."""
    output = call(model, batch)
    mask = padding_mask(batch) if isinstance(batch, Mapping) else None
    return only_real(output if isinstance(output, Tensor) else output[0], mask)


def _norm(parts: Iterable[Tensor]) -> float:
    return torch.stack([part.double().square().sum() for part in parts]).sum().sqrt().item()
