"""The weights of a network that tuning may stand on, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cl_ac.errors import ConfigurationError, unknown
from cl_ac.network import Backbone
from cl_ac.tuning.bank import Bank

# Modules with a weight whose first axis, or only one, is that of the output.
LAYERS = (nn.Linear, _ConvNd, _BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Place:
    """A weight of a network.

    Args:
        name: path of its module.
        module: holds it.
        weight: its name there.
        bias: the name of the bias that belongs to it; None without.
        axis: of the outputs in the weight.
    """

    name: str
    module: nn.Module
    weight: str
    bias: str | None
    axis: int = 0

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
        known = isinstance(module, LAYERS) or transposed
        if module in inside or not (packed or (known and isinstance(module.weight, Tensor))):
            continue
        weight, bias = ("in_proj_weight", "in_proj_bias") if packed else ("weight", "bias")
        has_bias = getattr(module, bias, None) is not None
        places.append(Place(name, module, weight, bias if has_bias else None, -1 if transposed else 0))
    return places


def matched(places: Sequence[Place], names: Sequence[str], backbone: Backbone) -> list[Place]:
    """Those of `places` whose path is, ends in, or has an end that fits the pattern of, one of `names`.

    Raises:
        ConfigurationError: if a name matches none.
    """
    found: set[str] = set()
    for name in names:
        fits = {place.name for place in places if fnmatchcase(f".{place.name}", f"*.{name}")}
        if not fits:
            ends = sorted({place.name.rpartition(".")[2] for place in places})
            raise ConfigurationError(unknown(f"layer in the backbone {type(backbone).__name__}", name, ends))
        found |= fits
    return [place for place in places if place.name in found]
