"""Shares of a layer's weights for several tasks: none has a weight in common with another, each exactly orthogonal."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from cl_ac.errors import ConfigurationError


def parts_of(size: int, tasks: int) -> int:
    """In how many equal parts `size` is cut so that there is one for each of `tasks`: the smallest divisor that does.

    Raises:
        ValueError: if `size` is below `tasks`.
    """
    if size < tasks:
        raise ValueError(f"{size} cannot be cut into {tasks} parts")
    return next(count for count in range(tasks, size + 1) if size % count == 0)


def orthogonal_share(
    rows: int, columns: int, task: int, tasks: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One of `tasks` disjoint masks of an n × m matrix, and an exactly orthogonal matrix that is zero elsewhere.

    The longer side M is cut into K ≥ `tasks` equal parts, the shorter one into parts of the same length. Part i of the
    shorter side meets part (i + task) mod K of the longer one, in a dense orthogonal block: M / K weights in each row
    or column, a density of 1 / K. So it is what Exact Orthogonal Initialisation (Nowak et al., 2024) comes to by
    rotations within blocks, with blocks of which other tasks have none.

    Args:
        task: whose, from 0 on.
        generator: of the blocks' values.
    Returns:
        Values in float64 and mask [n, m]. Of a wide matrix the rows are orthonormal, of a tall one the columns.
    Raises:
        ValueError: if M is below `tasks`.
    """
    short, long = sorted((rows, columns))
    count = parts_of(long, tasks)
    width = long // count
    values, mask = torch.zeros(short, long, dtype=torch.float64), torch.zeros(short, long, dtype=torch.bool)
    for index, start in enumerate(range(0, short, width)):
        across, along = slice(start, min(start + width, short)), (index + task) % count * width
        block = values[across, along : along + width]
        values[across, along : along + width] = nn.init.orthogonal_(torch.empty_like(block), generator=generator)
        mask[across, along : along + width] = True
    return (values, mask) if rows <= columns else (values.T, mask.T)


def check_layers(module: nn.Module, tasks: int) -> None:
    """Sees whether the weights of `module` that learn can be shared out among so many tasks.

    Raises:
        ConfigurationError: if a weight that learns is of another kind of layer, or of one that is too small.
    """
    for place, layer in module.named_modules():
        for name, weight in layer.named_parameters(place, recurse=False):
            if weight.ndim < 2 or not weight.requires_grad:
                continue
            if not isinstance(layer, nn.Linear | _ConvNd) or getattr(layer, "groups", 1) > 1:
                raise ConfigurationError(
                    "disjoint orthogonal masks are for linear layers and convolutions without groups, but "
                    f"'{name}' is of a {type(layer).__name__}; take another backbone, or PackNet"
                )
            if max(weight.shape[:2]) < tasks:
                raise ConfigurationError(
                    f"approach.tasks is {tasks}, but '{name}' is {weight.shape[0]} × {weight.shape[1]}, of which so "
                    "many tasks cannot have a share each; lower it, or take a wider backbone"
                )


@torch.no_grad()
def give_share(weight: nn.Parameter, task: int, tasks: int, generator: torch.Generator) -> Tensor:
    """Puts a task's orthogonal matrix into its share of a weight [n, m, kernel...], and returns the mask of it.

    Of a kernel all taps are the task's; the centre is orthogonal, the others are zero at first (delta-orthogonal).
    """
    values, mask = orthogonal_share(weight.shape[0], weight.shape[1], task, tasks, generator)
    centre = 0
    for side in weight.shape[2:]:
        centre = centre * side + side // 2
    share = torch.zeros(*mask.shape, math.prod(weight.shape[2:]), dtype=torch.float64)
    share[:, :, centre] = values
    whole = mask[:, :, None].expand_as(share).reshape(weight.shape).to(weight.device)
    weight.copy_(torch.where(whole, share.view(weight.shape).to(weight), weight))
    return whole
