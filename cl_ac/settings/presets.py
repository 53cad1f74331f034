"""Settings files with values tuned for each approach.

Beside the settings themselves, a file may hold a section `tuned`: for each approach the settings it was tuned to,
and under `exits` those that differ when the network has ACs.

    tuned:
      LwF:
        approach: {strength: 1.0}
        exits:
          approach: {strength: 0.5}
          presets:
            dense: {approach: {strength: 0.25}}

Of `presets` those count that are called as `exits` is. Tuned values override the file's settings
and are overridden by what stands after `--config` on the command line.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cl_ac.errors import ConfigurationError
from cl_ac.settings.checking import Checker
from cl_ac.settings.plugins import PLACES, shown
from cl_ac.settings.reading import read


def with_tuned_values(arguments: Sequence[str], checker: Checker) -> list[str]:
    """`arguments` with each settings file replaced by its text, in which tuned values are filled in.

    Raises:
        ConfigurationError: if a file is missing, no YAML mapping, or has wrong settings.
    """
    replaced = []
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if index and arguments[index - 1] == "--config":
            replaced.append(filled_in(argument, arguments, checker))
        elif name == "--config" and equals:
            replaced.append(f"--config={filled_in(value, arguments, checker)}")
        else:
            replaced.append(argument)
    return replaced


def filled_in(path: str, arguments: Sequence[str], checker: Checker) -> str:
    """The settings in the file at `path` as YAML text, tuned for the approach and exits that `arguments` ask for."""
    settings = nested(read(path))
    tuned = mapping("tuned", settings.pop("tuned", {}))
    settings = checker.settings(settings)
    approach = last_value("--approach", arguments) or class_path(settings.get("approach"))
    exits = last_value("--exits", arguments) or settings.get("exits") or last_value("--exits.at", arguments)
    chosen = dict(mapping(f"tuned.{bare(approach)}", tuned.get(bare(approach), {})))
    with_exits = dict(mapping(f"tuned.{bare(approach)}.exits", chosen.pop("exits", {})))
    presets = mapping(f"tuned.{bare(approach)}.exits.presets", with_exits.pop("presets", {}))
    of_preset = mapping(f"tuned.{bare(approach)}.exits.presets.{exits}", presets.get(str(exits), {}))
    if approach:
        settings["approach"] = as_class(settings.get("approach"), approach)
    for values in [chosen, with_exits, of_preset] if exits not in (None, "null") else [chosen]:
        merge(settings, values)
    # JSON is YAML, and the same to every reader.
    return json.dumps(checker.settings(settings), ensure_ascii=False)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` in which a line such as `training.lr: 0.1` stands inside `training`, as on the command line."""
    whole: dict[str, Any] = {}
    for name, value in settings.items():
        first, dot, option = name.partition(".") if isinstance(name, str) else (name, "", "")
        if not dot:
            whole[name] = value
        elif first in PLACES and not option.startswith("init_args"):
            given = whole.get(first, {})
            part = dict(given) if isinstance(given, Mapping) else {"class_path": given}
            part["init_args"] = {**mapping(f"{first}.init_args", part.get("init_args", {})), option: value}
            whole[first] = part
        else:
            whole[first] = {**mapping(first, whole.get(first, {})), option: value}
    return whole


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """`value`, which must hold settings.

    Raises:
        ConfigurationError: if it is something else.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} is {shown(value)}; expected settings, in lines such as 'lr: 0.1'")
    return value


def last_value(option: str, arguments: Sequence[str]) -> str | None:
    """What `arguments` give for `option`, the last time they name it."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value


def class_path(approach: Mapping[str, Any] | None) -> str | None:
    """The path of the class that the settings `approach` name."""
    return approach.get("class_path") if approach else None


def bare(path: str | None) -> str:
    """The bare name of a class given by name or by dotted path."""
    return (path or "").rpartition(".")[2]


def as_class(given: Mapping[str, Any] | None, approach: str) -> dict[str, Any]:
    """The settings of `approach` as a mapping; options given for another class are left behind."""
    path = class_path(given)
    same = given is not None and (path is None or bare(path) == bare(approach))
    # The longer one says where a class of the user's own stands.
    longer = max(path or "", approach, key=len) if same and "." not in approach else approach
    return {"class_path": longer, "init_args": dict(given.get("init_args") or {}) if same else {}}


def merge(settings: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Overrides `settings` with `values`, mapping by mapping; values of the approach are its options."""
    for name, value in values.items():
        if name == "approach":
            settings["approach"]["init_args"].update(mapping("tuned approach", value))
        elif isinstance(value, Mapping) and isinstance(settings.get(name), dict):
            merge(settings[name], value)
        else:
            settings[name] = value
