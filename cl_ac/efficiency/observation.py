"""Looking into a model while it runs, without changing it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from cl_ac.errors import ConfigurationError


def call(model: nn.Module, batch: Any) -> Any:
    """What the model says of a batch; a mapping is handed to it as keyword arguments."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch)


def check_repeatable(inputs: Iterable[Any]) -> None:
    """Raises a `ConfigurationError` if inputs would be gone after a first pass."""
    if iter(inputs) is inputs:
        raise ConfigurationError("inputs can be gone through only once, as generators can; give a list or a DataLoader")


@contextmanager
def observed(modules: Mapping[str, nn.Module], see: Callable[[str, Tensor, Any], None]) -> Iterator[None]:
    """Shows `see` the name, the first input and the output of each call of the modules while the context is open."""

    def hook(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        see(name, inputs[0], output)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(module.register_forward_hook(partial(hook, name)))
        yield
