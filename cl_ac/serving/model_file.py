"""Early-exit models in one file, loaded where there is no run."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_ac.approach import Approach
from cl_ac.efficiency.dynamic import descriptions, insert_described
from cl_ac.errors import DataError, UserError, unknown
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence, Entropy, ExitRule, LearnedScorer, Margin, Patience
from cl_ac.memory import Memory
from cl_ac.recording.files import save_state, write_atomically
from cl_ac.run import choose_device
from cl_ac.serving.finished import _assemble, _objects
from cl_ac.settings.objects import Objects
from cl_ac.teacher import Teacher

VERSION = 1

RULES: dict[str, type[ExitRule]] = {
    rule.__name__: rule for rule in (Confidence, Entropy, Margin, Patience, LearnedScorer)
}


def save(model: EarlyExitModel, path: Path, config: Mapping[str, Any]) -> None:
    """Writes what answering takes to one file: no exemplars, no teacher.

    Args:
        config: the settings of the run, as its config.yaml holds them; they say how the network is built.
    """
    approach = {} if model.approach is None else serving_state(model.approach)
    rule = {field.name: getattr(model.rule, field.name) for field in fields(model.rule)}
    content = {
        "version": VERSION,
        "config": dict(config),
        "network": model.network.state_dict(),
        "dynamic": descriptions(model.network),
        "approach": approach,
        "corrected": model.approach is not None,
        "rule": {"name": type(model.rule).__name__, **rule},
    }
    write_atomically(Path(path), lambda file: save_state(content, file))


def load(path: Path, device: str = "auto", fold: bool = False, given: Sequence[Any] = ()) -> EarlyExitModel:
    """Reads what `save` wrote; runs no code that the file names, but that of this package and of `given`.

    Args:
        fold: whether stages take their form for inference: faster, and the same answers up to rounding.
        given: classes and functions of your own that the file may name, such as your approach.
    Raises:
        DataError: if the file cannot be read, or parts of it are missing or do not fit.
        ConfigurationError: if it names other classes.
    """
    place = choose_device(device)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["version"]
    except Exception as error:
        raise DataError(f"'{path}' is no saved early-exit model ({reason(error)})") from error
    if version != VERSION:
        raise DataError(f"'{path}' has version {version}; this program reads version {VERSION}")
    if missing := [part for part in ("config", "network", "approach", "corrected", "rule") if part not in content]:
        raise DataError(f"'{path}' is damaged: it has no {' and no '.join(missing)}")
    if not isinstance(content["config"], Mapping):
        raise DataError(f"'{path}' is damaged: its settings are a {type(content['config']).__name__}")
    objects = _objects(content["config"], given=given)
    try:
        return model_of(content, objects, place, fold)
    except UserError as error:
        raise DataError(f"'{path}' is damaged: {error}") from error
    # Every part of the file is somebody else's, and each is used by another library.
    except Exception as error:
        raise DataError(f"'{path}' is damaged: {reason(error)}") from error


def model_of(content: Mapping[str, Any], objects: Objects, place: torch.device, fold: bool) -> EarlyExitModel:
    """The model that the parts of a file make up."""
    network, approach = _assemble(objects), objects.approach
    # A file from before there were converted networks has none.
    insert_described(network, content.get("dynamic", {}))
    network.load_state_dict(content["network"])
    if content["corrected"]:
        missing, unexpected = approach.load_state_dict(content["approach"], strict=False)
        if unexpected or set(missing) & set(serving_state(approach)):
            raise DataError(f"it does not fit the approach {type(approach).__name__} of this program")
    rule = dict(content["rule"])
    name = rule.pop("name", None)
    if name not in RULES:
        raise DataError(unknown("rule", str(name), RULES))
    answering = approach.to(place) if content["corrected"] else None
    return EarlyExitModel(network.to(place), answering, RULES[name](**rule), fold)


def reason(error: Exception) -> str:
    """What another library says, in short."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def serving_state(approach: Approach) -> dict[str, Tensor]:
    """The state of `approach` without that of its memories, which hold images, and its teachers."""
    unused = [f"{name}." for name, module in approach.named_modules() if isinstance(module, Memory | Teacher)]
    return {key: value for key, value in approach.state_dict().items() if not key.startswith(tuple(unused))}
