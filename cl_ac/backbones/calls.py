"""What ran in a model, with what, and in which order: seen through hooks while it reads images."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# A tensor with its version: how often something was written into it.
Given = tuple[Tensor, int]


@dataclass(eq=False)
class Call:
    """A module that ran: what it read and gave, and when.

    Args:
        path: of the module in its model.
        place: of the tensor among the positional arguments, or the name of the keyword argument.
        read: the tensor that it read, with its version then.
        gave: the first tensor that it gave, with its version then.
        plain: whether that tensor is all that it gave.
    """

    path: str
    module: nn.Module
    arguments: tuple
    options: dict[str, Any]
    place: int | str
    read: Given
    began: int
    ended: int = -1
    gave: Given | None = None
    plain: bool = True

    @property
    def others(self) -> list[Any]:
        """All arguments but the tensor that runs through."""
        kept = [value for index, value in enumerate(self.arguments) if index != self.place]
        return [*kept, *(value for name, value in sorted(self.options.items()) if name != self.place)]


@torch.no_grad()
def watched(model: nn.Module, images: Tensor, options: Mapping[str, Any]) -> list[Call]:
    """Every call of a module while `model` reads `images`, in the order in which they began; the model's own first."""
    calls: list[Call] = []
    paths: dict[nn.Module, str] = {module: path for path, module in model.named_modules()}
    clock = itertools.count()
    open_calls: list[Call | None] = []

    def before(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        places: list[int | str] = [*range(len(arguments)), *named]
        values = [*arguments, *named.values()]
        found = next(((place, value) for place, value in zip(places, values, strict=True) if _flows(value)), None)
        if found is None:
            open_calls.append(None)
            return
        place, tensor = found
        read = tensor, tensor._version
        call = Call(paths[module], module, arguments, dict(named), place, read, next(clock))
        calls.append(call)
        open_calls.append(call)

    def after(module: nn.Module, arguments: tuple, output: Any) -> None:
        call, tensor = open_calls.pop(), first_tensor(output)
        if call is not None:
            call.ended = next(clock)
            call.gave = (tensor, tensor._version) if isinstance(tensor, Tensor) else None
            call.plain = tensor is output

    with _hooked(model, before, after):
        model(images, **options)
    return calls


def _flows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@contextmanager
def _hooked(model: nn.Module, before: Callable, after: Callable) -> Iterator[None]:
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Any:
    """The tensor that a module gives, the first if there are several."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output


def same(one: Given | None, other: Given | None) -> bool:
    """Whether two are the same tensor, into which nothing was written in between."""
    return one is not None and other is not None and one[0] is other[0] and one[1] == other[1]


def steady(call: Call, twin: Call) -> bool:
    """Whether a module's other arguments are the same for all images, and nothing that learns."""
    return (
        call.place == twin.place
        and len(call.others) == len(twin.others)
        and all(_equal(one, other) for one, other in zip(call.others, twin.others, strict=True))
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        alike = isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
        return alike and not isinstance(one, nn.Parameter)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool | int | float | str | None) and one == other
