"""Copies of modules: such that share nothing with them, and such that share their values."""

import copy
from typing import TypeVar

from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def copied(module: AnyModule) -> AnyModule:
    """A deep copy of `module`, also of one with weight norm or spectral norm.

    Modules that compute their weights before each pass keep the last ones as results of a computation, which cannot be
    copied; the copy gets their values, and computes them anew.
    """
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in _computed(module)})


def seen_again(module: AnyModule) -> AnyModule:
    """A copy of `module` for evaluation whose parameters and buffers share their values with it and learn nothing.

    It sees what `module` learns, while modules may be put into one of the two or taken out of it.
    """
    shared = {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in module.parameters()}
    shared |= {id(value): value.detach() for value in [*module.buffers(), *_computed(module)]}
    return copy.deepcopy(module, shared).eval()


def _computed(module: nn.Module) -> list[Tensor]:
    """The tensors in `module` that are results of a computation."""
    values = (value for part in module.modules() for value in vars(part).values())
    return [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
