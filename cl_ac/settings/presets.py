"""Settings files with values tuned for each approach.

Beside the settings themselves, a file may hold a section `tuned`: for each approach the settings it was tuned to,
and under `exits` those that differ when the network has ACs.

    tuned:
      LwF:
        approach: {strength: 1.0}
        exits:
          approach: {strength: 0.5}

They override the file's settings and are overridden by what stands after `--config` on the command line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cl_ac.errors import ConfigurationError


def with_tuned_values(arguments: Sequence[str]) -> list[str]:
    """`arguments` with each settings file replaced by its text, in which tuned values are filled in.

    Raises:
        ConfigurationError: if a file is missing or no YAML mapping.
    """
    replaced = []
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if index and arguments[index - 1] == "--config":
            replaced.append(filled_in(argument, arguments))
        elif name == "--config" and equals:
            replaced.append(f"--config={filled_in(value, arguments)}")
        else:
            replaced.append(argument)
    return replaced


def filled_in(path: str, arguments: Sequence[str]) -> str:
    """The settings in the file at `path` as YAML text, tuned for the approach and exits that `arguments` ask for."""
    settings = read(path)
    tuned = settings.pop("tuned", {})
    approach = last_value("--approach", arguments) or class_name(settings.get("approach"))
    exits = last_value("--exits", arguments) or settings.get("exits") or last_value("--exits.at", arguments)
    chosen = dict(tuned.get(class_name(approach), {}))
    with_exits = chosen.pop("exits", {})
    if approach:
        settings["approach"] = as_class(settings.get("approach"), approach)
    for values in [chosen, with_exits] if exits not in (None, "null") else [chosen]:
        merge(settings, values)
    return yaml.safe_dump(settings, sort_keys=False)


def read(path: str) -> dict[str, Any]:
    """The mapping in the YAML file at `path`."""
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read the settings file '{path}' (--config): {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"'{path}' (--config) is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"'{path}' (--config) holds no settings; expected lines such as 'seed: 1'")
    return settings


def last_value(option: str, arguments: Sequence[str]) -> str | None:
    """What `arguments` give for `option`, the last time they name it."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value


def class_name(approach: Any) -> str | None:
    """The bare name of a class given by name, by dotted path, or as a mapping with `class_path`."""
    path = approach.get("class_path") if isinstance(approach, Mapping) else approach
    return path.rpartition(".")[2] if path else None


def as_class(given: Any, approach: str) -> dict[str, Any]:
    """The settings of `approach` as a mapping; options given for another class are left behind."""
    same = isinstance(given, Mapping) and class_name(given) == class_name(approach)
    return {"class_path": approach, "init_args": dict(given.get("init_args") or {}) if same else {}}


def merge(settings: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Overrides `settings` with `values`, mapping by mapping; values of the approach are its options."""
    for name, value in values.items():
        if name == "approach":
            settings["approach"]["init_args"].update(value)
        elif isinstance(value, Mapping) and isinstance(settings.get(name), dict):
            merge(settings[name], value)
        else:
            settings[name] = value
