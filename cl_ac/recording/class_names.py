"""Our own classes by their bare names, whichever file held them when a run was made."""

from collections.abc import Mapping
from typing import Any


def by_bare_name(settings: Any) -> Any:
    """`settings` with `Name` in place of each `class_path: cl_ac.….Name`."""
    if isinstance(settings, Mapping):
        return {
            key: value.rpartition(".")[2]
            if key == "class_path" and isinstance(value, str) and value.startswith("cl_ac.")
            else by_bare_name(value)
            for key, value in settings.items()
        }
    return [by_bare_name(each) for each in settings] if isinstance(settings, list) else settings
