"""Copies of modules that share nothing with them."""

import copy
from typing import TypeVar

from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def copied(module: AnyModule) -> AnyModule:
    """A deep copy of `module`, also of one with weight norm or spectral norm.

    Modules that compute their weights before each pass keep the last ones as results of a computation, which cannot be
    copied; the copy gets their values, and computes them anew.
    """
    values = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in values if not value.is_leaf})
