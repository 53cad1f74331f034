"""Weights of somebody else's model, out of a file."""

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError, told

# Under these names training scripts keep a model's state among other things.
STATE_NAMES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
# Wrappers for several GPUs and compiled models put these before every name.
PREFIXES = ("module.", "_orig_mod.")
COUNTER = ".num_batches_tracked"


def load_weights(model: nn.Module, path: str, used: nn.Module | None = None) -> None:
    """Loads the state in the file at `path`; runs no code from it.

    A state inside a checkpoint of a training script is found, and prefixes of wrappers are taken off.

    Args:
        used: the part of the model that is used: what the rest needs may be missing or have other shapes, such as a
            classifier of another number of classes. None stands for the whole model.

    Raises:
        ConfigurationError: if it cannot be read or is another model's.
    """
    state, own = _plain(state_in(path), model), model.state_dict(keep_vars=True)
    needed = {id(value) for value in (used or model).state_dict(keep_vars=True).values()}
    unused = {name for name, value in own.items() if id(value) not in needed}
    common = (own.keys() & state.keys()) - unused
    faults = {
        # Files of before 2018 do not count batches, and nothing depends on it.
        "are missing": {name for name in own.keys() - state.keys() - unused if not name.endswith(COUNTER)},
        "are unknown to it": state.keys() - own.keys(),
        "have other shapes": (other := {name for name in common if own[name].shape != state[name].shape}),
    }
    detail = ""
    if other:
        name = min(other)
        detail = f" with {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the model"
    check_fit(path, type(model).__name__, faults, detail)
    model.load_state_dict({name: state[name] for name in common}, strict=False)


def check_fit(path: str, name: str, faults: Mapping[str, Collection[str]], detail: str = "") -> None:
    """Raises a `ConfigurationError` if any tensors are named in `faults`, by what is wrong with them.

    Args:
        name: of the model's class.
        detail: more on the last fault.
    """
    told_faults = [
        f"{len(names)} tensors {what}, such as '{min(names)[:80]}'" for what, names in faults.items() if names
    ]
    if told_faults:
        raise ConfigurationError(f"weights '{path}' are no state of {name}: {'; '.join(told_faults)}{detail}")


def state_in(path: str) -> dict[str, Tensor]:
    """The tensors by name in the file at `path`."""
    way_out = "save the model's state_dict() with torch.save"
    try:
        content = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What is meant for programmers: what is no such file at all, or holds objects that would run code.
        reason = "cannot be read" if "invalid load key" in str(error) else "hold more than tensors or cannot be read"
        raise ConfigurationError(f"weights '{path}' {reason}; {way_out}") from error
    except Exception as error:
        raise ConfigurationError(f"weights '{path}' cannot be read: {told(error)}") from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in STATE_NAMES if isinstance(content.get(name), Mapping)), content)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    raise ConfigurationError(
        f"weights '{path}' hold no tensors by name, neither at the top nor as {', '.join(STATE_NAMES)}; {way_out}"
    )


def _plain(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` without a prefix that each of its names has and the model's have not."""
    for prefix in PREFIXES:
        own = any(name.startswith(prefix) for name in model.state_dict())
        if not own and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
