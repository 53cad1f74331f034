"""The default of each option that settings may have."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from cl_ac.network import Exits
from cl_ac.recording.stored_settings import flatten
from cl_ac.settings.parser import PLUGINS, run_parser
from cl_ac.settings.plugins import resolve


def usual_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a run's options, those of the classes that `settings` name included, by dotted name.

    They are as config.yaml holds them (`approach.init_args.strength`); what is null by default has none.
    """
    general = run_parser().get_defaults().as_dict()
    usual = {name: value for name, value in general.items() if value is not None}
    if isinstance(settings.get("exits"), Mapping):
        usual["exits"] = defaults(Exits)
    for kind, base in PLUGINS.items():
        if part := settings.get(kind):
            usual[kind] = {"init_args": defaults(resolve(kind, base, part["class_path"], trusted=True))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flatten(usual).items()}


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
