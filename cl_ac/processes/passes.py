"""Passes of a network that several processes share out, as exact as if one did them.

A loss is free to do with logits what it wants: contrast them over the batch, mask them, count them. So each process
computes the loss of the whole batch, and only what leads from images to logits is shared: a process runs its part of
the images, and all exchange what comes out. Backwards each takes its part of the gradient, which all of them know, and
what reaches the parameters is summed over processes. Parameters that a loss uses outside of a pass, such as a penalty
on weights, have the same gradient everywhere and are not summed. (The operators are f and g of Megatron, Shoeybi et
al., 2019, here over samples.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from cl_ac.processes.batch_norm import SynchronisedBatchNorm
from cl_ac.processes.group import ALONE, Group

Read = TypeVar("Read", Tensor, list[Tensor])

# Of gradients that are exchanged at once: enough that a network is used well, and few enough that the last exchange,
# which no computation hides, is short.
BUCKET = 25 * 2**20
# A place in the order in which autograd takes what is ready.
HIGHEST = 2**64 - 1

_sharing: ContextVar[tuple[Group, bool]] = ContextVar("sharing", default=(ALONE, False))
# Of the pass that goes on: who shares it, and the images of all of them.
_pass: ContextVar[tuple[Group, int]] = ContextVar("pass", default=(ALONE, 0))


@contextmanager
def sharing(group: Group, synchronised: bool) -> Iterator[None]:
    """Passes inside are shared out among `group`.

    Args:
        synchronised: whether batch norm normalises with the statistics of the whole batch.
    """
    token = _sharing.set((group, synchronised))
    try:
        yield
    finally:
        _sharing.reset(token)


def shared(network: nn.Module, read: Callable[[Tensor], Read], images: Tensor) -> Read:
    """What `read` makes of images, of which each process runs its part.

    Args:
        network: whose parameters and buffers `read` uses.
        read: maps images [B, ...] to one stacked tensor [E, B, ...] or a list of tensors [B, ...].
    """
    group, synchronised = _sharing.get()
    if group.size == 1 or len(images) < group.size:
        return read(images)
    part = images[group.part(len(images))]
    with ExitStack() as inside:
        inside.enter_context(sharing(ALONE, False))
        inside.enter_context(_going_on(group, len(images)))
        if synchronised:
            inside.enter_context(SynchronisedBatchNorm(group))
        output = functional_call(_Reading(network, read), _summed(network, group), (part,))
    if isinstance(output, Tensor):
        return cast(Read, _joined(output.transpose(0, 1), group, len(images)).transpose(0, 1))
    return cast(Read, [_joined(value, group, len(images)) for value in output])


def joined(values: Tensor) -> Tensor:
    """The rows of all processes, of values [B, ...] that a module keeps aside while a pass goes on."""
    group, count = _pass.get()
    return values if group.size == 1 else _joined(values, group, count)


@contextmanager
def _going_on(group: Group, count: int) -> Iterator[None]:
    token = _pass.set((group, count))
    try:
        yield
    finally:
        _pass.reset(token)


class _Reading(nn.Module):
    """A module whose call is `read`."""

    def __init__(self, network: nn.Module, read: Callable[[Tensor], Any]):
        super().__init__()
        self.network, self.read = network, read

    def forward(self, images: Tensor) -> Any:
        return self.read(images)


def _summed(network: nn.Module, group: Group) -> dict[str, Tensor]:
    """All that learns of a network, by its name in `_Reading`; its gradients are summed over processes."""
    if not torch.is_grad_enabled():
        return {}
    state = [*network.named_parameters("network"), *network.named_buffers("network")]
    learning = {name: value for name, value in state if value.requires_grad}
    if not learning:
        return {}
    under_way: list[dist.Work] = []
    values = _Awaited.apply(under_way, *learning.values())
    summed = [_Summed.apply(under_way, *bucket) for bucket in _buckets(values)]
    for bucket in summed:
        # An exchange that can begin does so before any layer below computes its gradients.
        bucket[0].grad_fn._set_sequence_nr(HIGHEST)
    return dict(zip(learning, chain.from_iterable(summed), strict=True))


def _buckets(values: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Neighbours of `BUCKET` bytes and a little more."""
    first, size = 0, 0
    for place, value in enumerate(values, 1):
        size += value.nbytes
        if size >= BUCKET or place == len(values):
            yield values[first:place]
            first, size = place, 0


class _Identity(torch.autograd.Function):
    """The identity; subclasses say what becomes of gradients. `under_way` holds the exchanges that have begun."""

    @staticmethod
    def forward(context: Any, under_way: list[dist.Work], *values: Tensor) -> tuple[Tensor, ...]:
        context.set_materialize_grads(False)
        context.under_way = under_way
        return tuple(value.view_as(value) for value in values)


class _Awaited(_Identity):
    """Gradients are those that `_Summed` has under way, once they have come."""

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        while context.under_way:
            context.under_way.pop(0).wait()
        return None, *gradients


class _Summed(_Identity):
    """Gradients are summed over processes, in one exchange for each type of number.

    The exchange begins as soon as these gradients are known, and goes on while the layers below compute theirs. What
    `backward` gives is not yet the sum, so that nobody but `_Awaited` may read it.
    """

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        summed = list(gradients)
        # In the same order in every process.
        for dtype in dict.fromkeys(gradient.dtype for gradient in gradients if gradient is not None):
            places = [i for i, gradient in enumerate(gradients) if gradient is not None and gradient.dtype == dtype]
            parts = [gradients[place] for place in places]
            flat = torch.cat([part.reshape(-1) for part in parts])
            context.under_way.append(dist.all_reduce(flat, async_op=True))
            for place, part, total in zip(places, parts, flat.split([part.numel() for part in parts]), strict=True):
                summed[place] = total.view_as(part)
        return None, *summed


class _Joined(torch.autograd.Function):
    """The rows of all processes; each takes its part of the gradient, which all of them know."""

    @staticmethod
    def forward(context: Any, values: Tensor, group: Group, count: int) -> Tensor:
        context.part = group.part(count)
        return group.gathered(values.contiguous(), count)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[context.part], None, None


def _joined(values: Tensor, group: Group, count: int) -> Tensor:
    joined: Tensor = _Joined.apply(values, group, count)
    return joined
