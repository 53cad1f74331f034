"""Finding the classes that settings name, such as approaches, and saying what may be named at all.

Settings that the user gives to a run may name classes of their own. Settings that came with somebody else's file, a
model or a run folder, may name the classes of this package and those that the caller passes in, and nothing else:
importing a module runs it, and calling what it names runs that.
"""

import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Iterable
from typing import Any

from torch import nn

from cl_ac.errors import ConfigurationError, unknown

PLACES = {
    "approach": ("cl_ac.approaches",),
    "benchmark": ("cl_ac.datasets",),
    "backbone": ("cl_ac.backbones",),
    "classifier": ("cl_ac.classifiers",),
    "stream": ("cl_ac.streams",),
    "generator": ("cl_ac.generators",),
    "method": ("cl_ac.retrieval",),
    "pairs": ("cl_ac.datasets",),
    "first": ("cl_ac.backbones",),
    "second": ("cl_ac.backbones",),
}

# Which of them are backbones.
BACKBONES = ("backbone", "first", "second")

# Backbones that wrap the models of a library, by what stands before the colon in `timm:resnet18`.
LIBRARIES = {"hf": "HuggingFaceModel", "timm": "TimmModel", "torchvision": "TorchvisionModel"}

# Our plugins that stand in no place of theirs, since nobody names them but the files of runs.
ELSEWHERE = {"Attached": "cl_ac.serving.attach"}

TRUST = "give --trust_plugins (in Python: RunDirectory(path, trusted=True), or what is named to model_file.load)"

# The options that name a function or class to be called, and from where settings of others may take it.
NAMES_CODE = {("WrappedModel", "model"): None, ("AvalancheBenchmark", "factory"): "avalanche.benchmarks.classic"}


def classes(kind: str, base: type) -> dict[str, type]:
    """The subclasses of `base` that come with the framework, by name; what they have in common is none of them.

    Args:
        kind: one of `PLACES`.
    """
    names = []
    for place in map(importlib.import_module, PLACES[kind]):
        inside = pkgutil.iter_modules(getattr(place, "__path__", []), f"{place.__name__}.")
        names += [info.name for info in inside] or [place.__name__]
    found: dict[str, type] = {}
    for module in map(importlib.import_module, names):
        for name, value in inspect.getmembers(module, inspect.isclass):
            ours = issubclass(value, base) and value is not base and value.__module__ == module.__name__
            if ours and not inspect.isabstract(value):
                found[name] = value
    return found


def of_library(kind: str, name: str) -> tuple[str, str] | None:
    """The class and the model that a name such as `timm:resnet18` stands for; None for other names."""
    library, colon, model = name.partition(":")
    return (LIBRARIES[library], model) if kind in BACKBONES and colon and library in LIBRARIES else None


def resolve(kind: str, base: type, path: Any, trusted: bool, given: Iterable[Any] = ()) -> type:
    """The class that settings name as `path`: a bare name, or a dotted path.

    Args:
        trusted: whether it may be any subclass of `base` that can be imported; else only ours and those in `given`.
        given: further classes that may be named.
    Raises:
        ConfigurationError: if there is none, it is no `base`, or may not be named.
    """
    if not isinstance(path, str) or not path:
        raise ConfigurationError(f"{kind} is {shown(path)}; expected the name of a class, such as in 'class_path: …'")
    own, name = classes(kind, base), path.rpartition(".")[2]
    for each in given:
        if inspect.isclass(each) and issubclass(each, base) and path in (each.__name__, dotted(each)):
            return each
    ours = path.startswith("cl_ac.")
    if (ours or name == path) and name in own:
        # Runs of earlier versions name our classes by the files that held them then.
        return own[name]
    if (ours or name == path) and name in ELSEWHERE:
        path, ours = f"{ELSEWHERE[name]}.{name}", True
    if "." not in path:
        raise ConfigurationError(unknown(kind, path, own))
    if not ours and not trusted:
        raise ConfigurationError(
            f"the {kind} '{path}' is no class of this package, and importing it runs its code; "
            "if you trust where these settings come from, " + TRUST
        )
    found = imported(kind, path)
    if (
        not inspect.isclass(found)
        or not issubclass(found, base)
        or (ours and not found.__module__.startswith("cl_ac."))
    ):
        raise ConfigurationError(f"{kind} is '{path}', which is no {kind}; known: {', '.join(sorted(own))}")
    return found


def imported(kind: str, path: str) -> Any:
    """What stands at the dotted path `path`.

    Raises:
        ConfigurationError: if it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")) or not module:
        raise ConfigurationError(f"{kind} is '{path}'; expected a dotted path such as my_file.MyClass")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ImportError) and not f"{module}.".startswith(f"{missing}."):
            raise ConfigurationError(f"cannot import the {kind}: '{module}' itself fails with: {error}") from error
        raise ConfigurationError(
            f"cannot import the {kind}: {error}; give a class name or a dotted path such as my_file.MyClass"
        ) from error


def check_code(cls: type, option: str, path: Any, trusted: bool, given: Iterable[Any] = ()) -> None:
    """Checks what the `option` of `cls` names, if it names a function or class that `cls` will call.

    Raises:
        ConfigurationError: if `path` may not be named, or is neither a module's class nor a function of a library.
    """
    if (key := (cls.__name__, option)) not in NAMES_CODE or not cls.__module__.startswith("cl_ac."):
        return
    told = f"{option} of {cls.__name__}"
    if not isinstance(path, str) or any(path == dotted(each) for each in given if callable(each)):
        return
    module, _, _ = path.rpartition(".")
    if not trusted and module != NAMES_CODE[key]:
        raise ConfigurationError(
            f"the {told} is '{path}', which settings of others may not name, since it is code that would run; "
            "if you trust where these settings come from, " + TRUST
        )
    if module.partition(".")[0] in {*sys.stdlib_module_names, "torch"} - {"__main__"}:
        raise ConfigurationError(
            f"the {told} is '{path}', which builds no {'model' if key[1] == 'model' else 'benchmark'}"
        )
    if key[1] == "model":
        found = imported(told, path)
        if not (inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, nn.Module))):
            raise ConfigurationError(f"the {told} is '{path}', which is neither a module's class nor builds one")
    elif not trusted and not getattr(imported(told, path), "__module__", "").startswith(f"{NAMES_CODE[key]}."):
        raise ConfigurationError(f"the {told} is '{path}', which is no benchmark of Avalanche")


def dotted(value: Any) -> str:
    """The dotted path of a class or function."""
    return f"{value.__module__}.{value.__qualname__}"


def find(path: str) -> type:
    """The class at the dotted path `path`."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def init_options(cls: type) -> dict[str, Any]:
    """The types of the constructor's arguments, those that it hands on to its base classes included, by name."""
    found: dict[str, Any] = {}
    for each in cls.__mro__[:-1]:
        if "__init__" not in vars(each):
            continue
        try:
            hints = typing.get_type_hints(each.__init__)
        except (NameError, TypeError, AttributeError):
            hints = {}  # a plugin's annotations that cannot be evaluated say nothing
        parameters = list(inspect.signature(each.__init__).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(parameter.name, hints.get(parameter.name, Any))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def shown(value: Any) -> str:
    """A value as a sentence quotes it: short, whatever it is."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else f"'{value}'"
    return text if len(text) <= 80 else f"{text[:76]}…'"
