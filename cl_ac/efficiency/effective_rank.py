"""How many dimensions activations fill."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.efficiency.router_free import Place, showing


class EffectiveRank:
    """exp of the entropy of the normalised singular values of stacked vectors [N, K] (Roy & Vetterli, 2007).

    The vectors stream: only their K × K matrix of products is kept, in float64. From 1, all on one line, to K.
    """

    def __init__(self) -> None:
        self.products: Tensor | None = None

    def update(self, values: Tensor) -> None:
        """Stacks `values` [..., K] below what came before."""
        rows = values.detach().double().reshape(-1, values.shape[-1])
        products = rows.t() @ rows
        self.products = products if self.products is None else self.products + products

    def value(self) -> float:
        """The effective rank; NaN of nothing or of zeros."""
        if self.products is None:
            return float("nan")
        singular = torch.linalg.eigvalsh(self.products).clamp(min=0).sqrt()
        shares = singular / singular.sum()
        return float(torch.special.entr(shares).sum().exp())


def effective_ranks(model: nn.Module, run: Callable[[Any], object]) -> dict[str, dict[Place, float]]:
    """The effective rank of each tensor of each FFN of `model`, by the FFN's path.

    Args:
        run: sends data through the model.

    Raises:
        ConfigurationError: if the model has no FFN.
    """
    ranks: dict[str, dict[Place, EffectiveRank]] = {}

    def update(name: str, place: Place, values: Tensor) -> None:
        ranks.setdefault(name, {}).setdefault(place, EffectiveRank()).update(values)

    with showing(model, update):
        run(model)
    return {name: {place: each.value() for place, each in places.items()} for name, places in ranks.items()}
