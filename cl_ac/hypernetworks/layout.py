"""Which weights of a target are emitted, as one vector, and how they should be spread before anything is learned.

Shapes: P emitted weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, Self

import torch
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError, unknown

Start = Literal["fan", "own"]
# The share of a fresh network's deviation by which weights vary at first around the target's own.
NEAR_OWN = 1e-3
# The deviation of what belongs to no layer whose fan is known.
OTHERS = 0.1


@dataclass(frozen=True)
class Layout:
    """The emitted weights of a target one after the other: [..., P].

    Args:
        shapes: of each tensor, by its name in the target.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, target: nn.Module, emitted: Sequence[str] | None = None) -> Self:
        """The layout of the parameters that `emitted` names, or the modules that have them; of all if it is None.

        Raises:
            ConfigurationError: for a name that the target does not have.
        """
        named = {name: tuple(parameter.shape) for name, parameter in target.named_parameters()}
        wanted = [""] if emitted is None else list(emitted)
        for name in wanted:
            if not any(_within(each, name) for each in named):
                modules = {each.rpartition(".")[0] for each in named} - {""}
                raise ConfigurationError(unknown("weights to emit", name, [*modules, *named]))
        shapes = {name: shape for name, shape in named.items() if any(_within(name, each) for each in wanted)}
        return cls(shapes)

    def __len__(self) -> int:
        """P."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """How many weights each tensor has."""
        return [prod(shape) for shape in self.shapes.values()]

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """The tensors [..., *shape] by name, of weights [..., P]."""
        parts = vector.split(self.sizes, -1)
        return {name: part.unflatten(-1, shape) if shape else part[..., 0]
                for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}  # fmt: skip

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The vector [P] of tensors by name; what `split` reverses."""
        parts = [tensors[name].detach().reshape(-1) for name in self.shapes]
        return torch.cat(parts) if parts else torch.empty(0)


@dataclass(frozen=True)
class Spread:
    """What emitted weights are like before anything is learned.

    Args:
        mean: around which they vary [P].
        deviation: by how much those of a fresh network would vary [P].
        share: of that deviation, by which they do.
    """

    mean: Tensor
    deviation: Tensor
    share: float = 1.0


def spread(target: nn.Module, layout: Layout, start: Start = "fan") -> Spread:
    """How the weights of `target` should be spread at first.

    `fan` keeps the variance of what passes through the target's layers (Chang et al., 2020, hyperfan-in): the weights
    of a layer with `fan` inputs have the variance 2 / (c · fan), where c is 2 if its bias is emitted too and 1 if it is
    not, and the bias 1, all around 0. What belongs to no such layer, as the scales of a norm, varies by a tenth around
    the target's own. With `own` all weights do, and by a thousandth of that: for targets whose own initialisation
    matters, and pretrained ones.
    """
    values = dict(target.named_parameters())
    variances: dict[str, float] = {}
    for prefix, module in target.named_modules():
        own = {f"{prefix}.{name}" if prefix else name: p for name, p in module.named_parameters(recurse=False)}
        weights = [name for name, p in own.items() if p.ndim > 1 and name.endswith("weight")]
        biases = [name for name, p in own.items() if p.ndim == 1 and name.endswith("bias") and weights]
        biased = any(name in layout.shapes for name in biases)
        variances |= {name: 2 / ((2 if biased else 1) * own[name][0].numel()) for name in weights}
        variances |= dict.fromkeys(biases, 1.0)
    found = torch.tensor([variances.get(name, OTHERS**2) for name in layout.shapes])
    known = torch.tensor([name in variances for name in layout.shapes], dtype=torch.bool)
    counts = torch.tensor(layout.sizes, dtype=torch.int64)
    mean = layout.join(values)
    deviation = found.sqrt().repeat_interleave(counts).to(mean.device)
    if start == "own":
        return Spread(mean, deviation, NEAR_OWN)
    return Spread(torch.where(known.repeat_interleave(counts).to(mean.device), 0, mean), deviation)


def _within(name: str, place: str) -> bool:
    """Whether the parameter `name` is, or is in, what is called `place`; all are in ``""``."""
    return not place or name == place or name.startswith(f"{place}.")
