"""Linear layers that an approach has of its own.

Shapes: B batch, E exits, D_i features of exit i.
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cl_ac.heads.head import Head


class ExitLinears(nn.Module):
    """A linear layer of an approach's own for each exit: auxiliary heads, projectors, rows beside the network's.

    There is none until `build` or `grow`. A state of any size is taken over as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList()

    def __len__(self) -> int:
        return len(self.layers)

    def build(
        self,
        in_features: Sequence[int],
        rows: int,
        stream: Callable[[int], torch.Generator],
        device: torch.device | None = None,
    ) -> None:
        """Makes all layers anew, initialised as `torch.nn.Linear` does.

        Args:
            in_features: features that each exit's layer reads [E].
            rows: outputs of each.
            stream: the random stream of the exit that has a given number of exits behind it.
            device: where they stand.
        """
        self.layers = nn.ModuleList(_empty(features, 0, device) for features in in_features)
        self.grow(rows, stream)

    @torch.no_grad()
    def grow(self, rows: int, stream: Callable[[int], torch.Generator]) -> None:
        """Adds `rows` outputs to every layer, the earlier ones first; arguments as of `build`."""
        for depth, layer in enumerate(reversed(cast(Sequence[nn.Linear], self.layers))):
            weight, bias, generator = layer.weight, layer.bias, stream(depth)
            bound = 1 / math.sqrt(layer.in_features)
            drawn = [
                torch.empty(rows, *rest).uniform_(-bound, bound, generator=generator).to(weight.device)
                for rest in (weight.shape[1:], bias.shape[1:])
            ]
            layer.weight = nn.Parameter(torch.cat([weight, drawn[0]]))
            layer.bias = nn.Parameter(torch.cat([bias, drawn[1]]))
            layer.out_features = len(layer.bias)

    def learning(self, weights: Sequence[float]) -> list[nn.Parameter]:
        """What of the layers learns, for the loss weight of each exit [E]: weight decay alone would change the rest."""
        layers = zip(self.layers, weights, strict=True)
        return [parameter for layer, weight in layers if weight for parameter in layer.parameters()]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Outputs [E, ..., rows] for features of each exit, E tensors [..., D_i]."""
        return torch.stack([layer(value) for layer, value in zip(self.layers, features, strict=True)])

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        device = next((parameter.device for parameter in self.parameters()), None)
        start = f"{prefix}layers."
        shapes = {
            int(name.removeprefix(start).partition(".")[0]): value.shape
            for name, value in state_dict.items()
            if name.startswith(start) and name.endswith(".weight")
        }
        self.layers = nn.ModuleList(_empty(shapes[index][1], shapes[index][0], device) for index in sorted(shapes))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def linear_map(head: Head, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [C, D] and bias [C] of a linear head, without its cascade.

    Args:
        like: one of what the head reduces images to, of D values in all; it shows the shape.
    """

    def logits(value: Tensor) -> Tensor:
        return head.alone(value[None])[0]

    zero = torch.zeros_like(like)
    return torch.func.jacrev(logits)(zero).flatten(1), logits(zero)


def _empty(in_features: int, out_features: int, device: torch.device | None) -> nn.Linear:
    """A layer whose values are yet to come: those of torch would be drawn from the global stream."""
    layer = nn.Linear(in_features, 1, device="meta")
    layer.weight = nn.Parameter(torch.empty(out_features, in_features, device=device))
    layer.bias, layer.out_features = nn.Parameter(torch.empty(out_features, device=device)), out_features
    return layer
