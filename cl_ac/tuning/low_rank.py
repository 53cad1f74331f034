"""Low-rank adapters: what is added to a frozen weight is a product of two narrow matrices (Hu et al., 2022, LoRA)."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.bank import Bank, Entry
from cl_ac.tuning.weights import matched, weights


class LowRank(Entry):
    """`alpha / rank · up · down`, in the shape of a weight whose first axis up gives; up is zero at first.

    Args:
        shape: of the weight.
        rows: of the weight, to which it is added.
        rank: columns of up, rows of down.
        alpha: numerator of the fixed factor.
    """

    def __init__(self, shape: Sequence[int], rows: slice, rank: int, alpha: float):
        super().__init__()
        self.around = (0, 0, rows.start, shape[0] - rows.stop)
        self.down = nn.Parameter(torch.zeros(rank, math.prod(shape[1:])))
        self.up = nn.Parameter(torch.zeros(rows.stop - rows.start, rank))
        self.scale = alpha / rank

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(self.down.shape[1])
        self.down.copy_(torch.empty(self.down.shape).uniform_(-bound, bound, generator=generator))

    def forward(self, weight: Tensor) -> Tensor:
        return F.pad(self.scale * self.up @ self.down, self.around).view_as(weight)


def add_low_rank(
    backbone: Backbone,
    rank: int = 4,
    alpha: float | None = None,
    names: Sequence[str] | None = None,
    first: int | None = None,
) -> list[Bank]:
    """Puts a bank of low-rank adapters on the weights of linear layers and convolutions.

    Nothing changes until they learn. They are added to the weight and not to the output, so that attention which reads
    its weights itself is reached too and merging them is exact; a step computes the gradient of the whole weight.

    Args:
        rank: of what is added.
        alpha: what is added is scaled by `alpha / rank`; None for `rank`, a factor of 1.
        names: layers, by the end of their path or a pattern of it, such as `qkv` or `blocks.*.attn.proj`, or `query`,
            `key` and `value` of every attention; None for all layers but the first, which reads the image.
        first: of these only so many, from shallow to deep; None for all.
    Raises:
        ConfigurationError: if a name matches nothing, there is nothing to stand on, or the rank is below 1.
    """
    if rank < 1:
        raise ConfigurationError(f"the rank of low-rank adapters is {rank}; it must be at least 1")
    norms = nn.LayerNorm, nn.GroupNorm, _BatchNorm
    places = [place for place in weights(backbone) if not isinstance(place.module, norms)]
    chosen = places[1:] if names is None else matched(places, names, backbone)
    if not chosen:
        raise ConfigurationError(
            f"the backbone {type(backbone).__name__} has no linear layer or convolution behind the first for low-rank "
            "adapters to stand on"
        )
    added = []
    for place in chosen[:first]:
        bank = Bank(partial(LowRank, place.tensor.shape, place.rows, rank, rank if alpha is None else alpha))
        bank = bank.to(place.tensor.device, place.tensor.dtype)
        parametrize.register_parametrization(place.module, place.weight, bank)
        added.append(bank)
    return added
