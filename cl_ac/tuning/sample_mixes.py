"""Low-rank adapters in another mix for each sample of a batch: their outputs are added, and no weight is made.

A linear layer is linear in its weight, so that the sum of the outputs of `up · down`, weighted for each sample, is what
the layer with the sample's own merged weight would give. Shapes: B batch, K entries, R rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from cl_ac.errors import ConfigurationError
from cl_ac.tuning.bank import Bank, mixed
from cl_ac.tuning.low_rank import LowRank


@contextmanager
def mixed_by_sample(module: nn.Module, weights: Tensor) -> Iterator[None]:
    """Inside, a pass of B samples through `module` has the mix `weights[b]` of low-rank adapters for sample b.

    Args:
        weights: of each entry of every bank [B, K]; a row of zeros leaves its sample to the network without adapters.
    Raises:
        ConfigurationError: if a layer with adapters is one whose weight others read without calling it.
    """
    handles = []
    with mixed(module, {}):
        try:
            for part, bank in adapted_layers(module):
                handles.append(part.register_forward_hook(partial(_add_outputs, bank=bank, weights=weights, within=[])))
            yield
        finally:
            for handle in handles:
                handle.remove()


def adapted_layers(module: nn.Module) -> list[tuple[nn.Module, Bank]]:
    """The layers whose weight has a bank of low-rank adapters, each with its bank.

    Raises:
        ConfigurationError: if one is not called, as those inside torch's attention, or has several banks.
    """
    found = []
    for name, part in module.named_modules():
        if not parametrize.is_parametrized(part):
            continue
        chains = cast(Any, part.parametrizations)
        for chain in chains.values():
            for bank in [each for each in chain if isinstance(each, Bank)]:
                fits = isinstance(part, nn.Linear | _ConvNd) or _is_transposed(part)
                if not fits or isinstance(part, NonDynamicallyQuantizableLinear):
                    raise ConfigurationError(
                        f"the weight of '{name}' ({type(part).__bases__[0].__name__}) is read by attention without a "
                        "call, so that adapters cannot be mixed for each sample; merge their weights, or name other "
                        "layers"
                    )
                found.append((part, bank))
    return found


def _is_transposed(part: nn.Module) -> bool:
    """Whether it is a linear layer of Hugging Face, which has the axes of its weight exchanged."""
    return hasattr(part, "nf")


def _add_outputs(
    layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor, bank: Bank, weights: Tensor, within: list[bool]
) -> Tensor | None:
    """What the layer gives with each sample's own mix; a pass for the narrow values must not begin another."""
    if within:
        return None
    active = (weights != 0).any(0).nonzero()[:, 0].tolist()
    if not active:
        return None
    entries = [cast(LowRank, bank.entries[index]) for index in active]
    (name, original), *_ = ((each, chain.original) for each, chain in cast(Any, layer.parametrizations).items())
    downs, ups = torch.cat([entry.down for entry in entries]), torch.cat([entry.up for entry in entries], 1)
    ups = F.pad(ups, (0, 0, *entries[0].around[2:]))
    if _is_transposed(layer):
        downs, ups = ups.T, downs.T
    scales = torch.tensor([entry.scale for entry in entries]).to(weights)
    factors = (weights[:, active] * scales).repeat_interleave(entries[0].down.shape[0], 1)
    if isinstance(layer, _ConvNd):
        groups = layer.groups
        narrow = downs.view(-1, *original.shape[1:]).repeat(groups, *[1] * (original.ndim - 1))
        changed = {f"parametrizations.{name}.original": narrow}
        if layer.bias is not None:
            changed["bias"] = narrow.new_zeros(len(narrow))
        within.append(True)
        try:
            # By the layer itself, which may pad in its own way.
            hidden = functional_call(layer, changed, arguments)
        finally:
            within.pop()
        hidden = hidden * _for_samples(factors.repeat(1, groups), hidden, channels_last=False)
        wide = ups.view(*ups.shape, *[1] * (original.ndim - 2))
        convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[original.ndim]
        return output + convolution(hidden, wide, groups=groups)
    hidden = F.linear(arguments[0], downs)
    return output + F.linear(hidden * _for_samples(factors, hidden, channels_last=True), ups)


def _for_samples(factors: Tensor, hidden: Tensor, channels_last: bool) -> Tensor:
    """Factors [B, channels] in the shape of `hidden`, which may hold several rows of each sample, one after the other.

    Raises:
        ConfigurationError: if its rows cannot be shared out among samples.
    """
    rows, rest = divmod(len(hidden), len(factors))
    if rest:
        raise ConfigurationError(
            f"adapters cannot be mixed for each of {len(factors)} samples in a layer that reads {len(hidden)} rows; "
            "merge their weights, or name other layers"
        )
    ones = [1] * (hidden.ndim - 2)
    factors = factors.repeat_interleave(rows, 0)
    return factors.view(len(hidden), *ones, -1) if channels_last else factors.view(len(hidden), -1, *ones)
