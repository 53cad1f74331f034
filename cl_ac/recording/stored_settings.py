"""Settings as config.yaml holds them: our own classes by bare names, and all of them as one level of names."""

from collections.abc import Mapping
from typing import Any


def by_bare_name(settings: Any) -> Any:
    """`settings` with `Name` in place of each `class_path: cl_ac.….Name`, whichever file held the class then."""
    if isinstance(settings, Mapping):
        return {
            key: value.rpartition(".")[2]
            if key == "class_path" and isinstance(value, str) and value.startswith("cl_ac.")
            else by_bare_name(value)
            for key, value in settings.items()
        }
    return [by_bare_name(each) for each in settings] if isinstance(settings, list) else settings


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
