"""The weights of a network that tuning may stand on, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cl_ac.backbones.attention import find_attentions
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.network import Backbone
from cl_ac.tuning.bank import Bank

# Modules with a weight whose first axis, or only one, is that of the output.
PROJECTIONS = ("query", "key", "value")
LAYERS = (nn.Linear, _ConvNd, _BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Place:
    """A weight of a network, or some rows of it.

    Args:
        name: path of its module.
        module: holds it.
        weight: its name there.
        part: rows of the weight; None for all.
        bias: the name of the bias that belongs to it; None without.
        axis: of the outputs in the weight.
    """

    name: str
    module: nn.Module
    weight: str
    part: slice | None = None
    bias: str | None = None
    axis: int = 0

    @property
    def rows(self) -> slice:
        """The rows of the weight that are meant."""
        return slice(0, len(self.tensor)) if self.part is None else self.part

    @property
    def tensor(self) -> Tensor:
        """The weight itself."""
        return getattr(self.module, self.weight)


def weights(backbone: Backbone) -> list[Place]:
    """The weights of linear layers, convolutions, norms and packed attention, in the order of the modules.

    Hugging Face's `Conv1D` is a linear layer with the axes of its weight exchanged. What tuning has added is left out.
    """
    inside = {part for module in backbone.modules() if isinstance(module, Bank) for part in module.modules()}
    places = []
    for name, module in backbone.named_modules():
        packed = isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
        transposed = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
        known = transposed or (isinstance(module, LAYERS) and not isinstance(module, _ConvTransposeNd))
        if module in inside or not (packed or (known and isinstance(module.weight, Tensor))):
            continue
        weight, bias = ("in_proj_weight", "in_proj_bias") if packed else ("weight", "bias")
        has_bias = getattr(module, bias, None) is not None
        places.append(Place(name, module, weight, None, bias if has_bias else None, -1 if transposed else 0))
    return places


def projections(backbone: Backbone, kind: Literal["query", "key", "value"]) -> list[Place]:
    """The weights that give the queries, keys or values of every attention, in the order of the modules."""
    found = find_attentions(backbone).values()
    return [Place(f"{attention.name}.{kind}", *attention.rows(kind)) for attention in found]


def matched(places: Sequence[Place], names: Sequence[str], backbone: Backbone) -> list[Place]:
    """Those of `places` whose path is, ends in, or has an end that fits the pattern of, one of `names`; and the
    projections of every attention that are named `query`, `key` or `value`.

    Raises:
        ConfigurationError: if a name matches none.
    """
    found: list[Place] = []
    for name in names:
        fits = projections(backbone, name) if name in PROJECTIONS else []  # type: ignore[arg-type]
        fits = fits or [place for place in places if fnmatchcase(f".{place.name}", f"*.{name}")]
        if not fits:
            ends = sorted({place.name.rpartition(".")[2] for place in places})
            raise ConfigurationError(unknown(f"layer in the backbone {type(backbone).__name__}", name, ends))
        found += [place for place in fits if place not in found]
    order = {module: index for index, module in enumerate(backbone.modules())}
    return sorted(found, key=lambda place: order[place.module])
