"""Names for runs: what was chosen, readably, and a short digest of all else that differs from the defaults."""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from cl_ac.recording.settings import FREE_SETTINGS, flatten
from cl_ac.settings.parser import PLUGINS, run_parser
from cl_ac.settings.plugins import resolve

# Said by other parts of the name, or about where the data are.
LEFT_OUT = {*FREE_SETTINGS, "seed", "exits", "benchmark.tasks", "benchmark.root", "benchmark.download"}
LONGEST = 80


def run_name(settings: Mapping[str, Any], tasks: int) -> str:
    """A folder name that tells runs with other settings apart.

    Args:
        settings: of the run, as its config.yaml has them.
        tasks: number of the benchmark's tasks.
    """
    exits = settings.get("exits")
    placement = exits if isinstance(exits, str) else f"{len(exits['at'])}exits" if exits and exits["at"] else ""
    changed = changes(settings)
    factory = str(changed.pop("benchmark.factory", "")).rpartition(".")[2]
    benchmark = f"{factory or class_name(settings['benchmark'])}{tasks}"
    chosen = [name for name in changed if name.startswith("approach.")]
    readable = "_".join(f"{name.rpartition('.')[2]}{changed[name]}" for name in chosen)
    if len(readable) <= LONGEST:
        changed = {name: value for name, value in changed.items() if name not in chosen}
    else:
        readable = ""
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6] if changed else ""
    classifier, stream = (class_name(settings[kind]) if settings.get(kind) else "" for kind in ("classifier", "stream"))
    classes = class_name(settings["backbone"]), class_name(settings["approach"])
    parts = (benchmark, stream, *classes, readable, placement, classifier, digest, f"seed{settings['seed']}")
    return "_".join(re.sub(r"[^\w.+-]", "-", part) for part in parts if part)


def class_name(part: Mapping[str, Any]) -> str:
    """The bare name of a plugin's class."""
    return part["class_path"].rpartition(".")[2]


def changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from their defaults, by dotted name, those of `LEFT_OUT` aside."""
    usual = flatten({name: value for name, value in run_parser().get_defaults().as_dict().items() if value is not None})
    given: dict[str, Any] = {}
    for name, value in settings.items():
        if name in PLUGINS and value is not None:
            given |= flatten(value.get("init_args") or {}, f"{name}.")
            usual |= flatten(defaults(resolve(name, PLUGINS[name], value["class_path"], trusted=True)), f"{name}.")
        else:
            given |= flatten({name: value})
    differ = {name: value for name, value in given.items() if plain(value) != plain(usual.get(name))}
    return {name: value for name, value in differ.items() if name not in LEFT_OUT}


def defaults(cls: type) -> dict[str, Any]:
    """The default values of the options of `cls`, those of its base classes included."""
    found: dict[str, Any] = {}
    for each in cls.__mro__[:-1]:
        for parameter in inspect.signature(each.__init__).parameters.values():
            if parameter.default is not parameter.empty:
                value = parameter.default
                found.setdefault(
                    parameter.name, asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
                )
    return found


def plain(value: Any) -> Any:
    """`value` as a file would hold it."""
    return list(value) if isinstance(value, tuple) else value
