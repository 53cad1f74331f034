"""Finding approaches, benchmarks, backbones and classifiers by class name."""

import importlib
import inspect
import pkgutil

PLACES = {
    "approach": ("cl_ac.approaches",),
    "benchmark": ("cl_ac.datasets",),
    "backbone": ("cl_ac.backbones",),
    "classifier": ("cl_ac.classifiers",),
}


def classes(kind: str, base: type) -> dict[str, type]:
    """The subclasses of `base` that come with the framework, by name.

    Args:
        kind: `approach`, `benchmark`, `backbone` or `classifier`.
    """
    names = []
    for place in map(importlib.import_module, PLACES[kind]):
        inside = pkgutil.iter_modules(getattr(place, "__path__", []), f"{place.__name__}.")
        names += [info.name for info in inside] or [place.__name__]
    found: dict[str, type] = {}
    for module in map(importlib.import_module, names):
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, base) and value is not base and value.__module__ == module.__name__:
                found[name] = value
    return found


def find(path: str) -> type:
    """The class at the dotted path `path`."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def init_options(path: str) -> list[str]:
    """The constructor arguments of the class at `path`, those that it hands on to its base classes included."""
    names: dict[str, None] = {}
    for cls in find(path).__mro__[:-1]:
        if "__init__" not in vars(cls):
            continue
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        names.update(dict.fromkeys(p.name for p in parameters if p.kind is not p.VAR_KEYWORD))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return list(names)
