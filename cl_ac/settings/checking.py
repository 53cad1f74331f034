"""Settings against the constructors' signatures: one walk for every option, ours or a plugin's.

The parser takes null for everything, infinities for numbers, and settings of any shape; what it takes wrongly shows
up in the middle of a run. So every value is looked at here first.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import Namespace

from cl_ac.errors import ConfigurationError, unknown
from cl_ac.settings.plugins import check_code, dotted, init_options, of_library, resolve, shown
from cl_ac.settings.ranges import ANY_FLOAT, ANY_INT, Range, range_of

CLASS_KEYS = {"class_path", "init_args"}
DEEPEST = 20
LONGEST = 4096


class WrongValue(Exception):
    """A value is not of the expected type."""


@dataclass(frozen=True)
class Checker:
    """Looks at settings, and fills in the dotted paths of the classes that they name.

    Args:
        plugins: the base class of each kind of plugin.
        types: the types of all settings of a run.
        trusted: whether settings may name classes and functions from outside the package.
        given: those that they may name even so.
    """

    plugins: Mapping[str, type]
    types: Mapping[str, Any]
    trusted: bool = True
    given: tuple[Any, ...] = ()

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` with the dotted path of each class.

        Raises:
            ConfigurationError: if an option is unknown, or a value is not of its type or range.
        """
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in self.types:
                choices = [f"--{each}" for each in self.types]
                raise ConfigurationError(unknown("option", f"--{shortened(name)}", choices))
            checked[name] = self.option(name, value, self.types[name], Checker)
        return checked

    def option(self, name: str, value: Any, kind: Any, owner: type) -> Any:
        """The value of the option `name`, which `owner` takes."""
        plain(name, value)
        try:
            value = self.value(name, value, kind)
        except WrongValue:
            raise ConfigurationError(f"{name} is {shown(value)}; expected {told(kind)}") from None
        check_range(name, value, owner)
        check_code(owner, name.rpartition(".")[2], value, self.trusted, self.given)
        return value

    def value(self, name: str, value: Any, kind: Any) -> Any:
        """`value`, which must be of the type `kind`.

        Raises:
            WrongValue: if it is not.
        """
        value = value.as_dict() if isinstance(value, Namespace) else value
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any or kind is inspect.Parameter.empty or isinstance(kind, typing.TypeVar):
            return value
        if origin is typing.Annotated:
            return self.value(name, value, arguments[0])
        if origin in (Union, types.UnionType):
            return self.one_of(name, value, arguments)
        if origin is Literal:
            if any(value == each and type(value) is type(each) for each in arguments):
                return value
        elif kind in (None, type(None)):
            if value is None:
                return value
        elif kind in (bool, str):
            if isinstance(value, kind):
                return value
        elif kind is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        elif kind is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value
        elif (origin or kind) in (list, tuple, set, typing.Sequence) or is_collection(origin):
            return self.list(name, value, arguments)
        elif (origin or kind) is dict or (inspect.isclass(origin) and issubclass(origin, Mapping)):
            if isinstance(value, Mapping):
                return dict(value)
        elif inspect.isclass(kind):
            return self.object(name, value, kind)
        else:
            return value  # a type that says nothing here, such as a callable's
        raise WrongValue

    def one_of(self, name: str, value: Any, kinds: Iterable[Any]) -> Any:
        """`value`, which must be of one of `kinds`."""
        # Last those that explain themselves what is wrong inside.
        for kind in sorted(kinds, key=lambda each: is_object(each)):
            try:
                return self.value(name, value, kind)
            except WrongValue:
                continue
        raise WrongValue

    def list(self, name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
        """`value`, which must be a list of `kinds`, as the arguments of a list or tuple say them."""
        if not isinstance(value, list | tuple | set):
            raise WrongValue
        fixed = bool(kinds) and Ellipsis not in kinds and len(kinds) > 1
        if fixed and len(kinds) != len(value):
            raise WrongValue
        each = kinds if fixed else [kinds[0] if kinds else Any] * len(value)
        return type(value)(self.value(name, part, kind) for part, kind in zip(value, each, strict=True))

    def object(self, name: str, value: Any, kind: type) -> Any:
        """`value`, which must describe a `kind`: by options, or a class with its options."""
        if isinstance(value, kind):
            return value
        if (plugin := self.kind_of(kind)) is not None:
            return self.plugin(name, plugin, value, kind)
        if not dataclasses.is_dataclass(kind):
            if isinstance(value, Mapping) and (self.trusted or not CLASS_KEYS & value.keys()):
                # What other classes a plugin takes, the parser knows better.
                return value if CLASS_KEYS & value.keys() else self.options(name, value, kind)
            if self.trusted and isinstance(value, str):
                return value
            raise WrongValue
        if not isinstance(value, Mapping):
            raise WrongValue
        return self.options(name, value, kind)

    def plugin(self, name: str, kind: str, value: Any, base: type) -> Any:
        """The settings of a plugin, given by its name or with options."""
        if isinstance(value, str):
            short = of_library(kind, value)
            value = {"class_path": short[0], "init_args": {"model": short[1]}} if short else {"class_path": value}
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                f"{name} is {shown(value)}; expected the name of a class, or class_path with its name and init_args "
                "with its options"
            )
        if extra := [key for key in value if key not in CLASS_KEYS]:
            raise ConfigurationError(
                f"{name} has {shown(extra[0])}; expected class_path with the name of a class, and init_args with its "
                "options"
            )
        if "class_path" not in value:
            return value
        cls = resolve(kind, base, value["class_path"], self.trusted, self.given)
        if inspect.isabstract(cls):
            raise ConfigurationError(f"{name} is {shown(cls.__name__)}, which is no complete {kind}; take a subclass")
        options = value.get("init_args", {})
        if not isinstance(options, Mapping):
            raise ConfigurationError(f"{name}.init_args is {shown(options)}; expected options and their values")
        return {"class_path": dotted(cls), "init_args": self.options(name, options, cls)}

    def options(self, name: str, values: Mapping[str, Any], cls: type) -> dict[str, Any]:
        """`values` of the options that the constructor of `cls` takes."""
        known = init_options(cls)
        # The benchmark says it.
        known.pop("image_shape", None)
        checked = {}
        for option, value in values.items():
            if option not in known and not takes_anything(cls):
                choices = [f"{name}.{each}" for each in known]
                raise ConfigurationError(unknown(f"option of {cls.__name__}", f"{name}.{shortened(option)}", choices))
            checked[option] = self.option(f"{name}.{option}", value, known.get(option, Any), cls)
        return checked

    def kind_of(self, base: Any) -> str | None:
        """The kind of plugin whose base class is `base`."""
        return next((kind for kind, each in self.plugins.items() if each is base), None)


def plain(name: str, value: Any, depth: int = 0) -> None:
    """Checks that `value` is made of plain values that can be computed with, printed, and written to a file.

    Raises:
        ConfigurationError: if it is not.
    """
    name = shortened(name)
    if depth > DEEPEST:
        raise ConfigurationError(f"{name} is nested more than {DEEPEST} deep")
    if isinstance(value, Mapping | Namespace):
        for key, part in value.items() if isinstance(value, Mapping) else vars(value).items():
            if not isinstance(key, str):
                raise ConfigurationError(f"{name} has the key {shown(key)}; names of options are text")
            plain(f"{name}.{key}" if depth < 3 else name, part, depth + 1)
    elif isinstance(value, list | tuple | set):
        for part in value:
            plain(name, part, depth + 1)
    elif isinstance(value, str):
        if not value.isprintable() or len(value) > LONGEST:
            raise ConfigurationError(f"{name} is {shown(value)}; expected at most {LONGEST} printable characters")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{name} is {shown(value)}; expected a finite number")
    elif value is not None and not isinstance(value, bool | int | float) and not is_object(type(value)):
        raise ConfigurationError(
            f"{name} is {shown(value)}, a {type(value).__name__}; if it is a name, put it in quotes"
        )


def check_range(name: str, value: Any, owner: type) -> None:
    """Checks that the numbers in `value` are in the range of the option `name` of `owner`.

    Raises:
        ConfigurationError: if one is not.
    """
    if isinstance(value, list | tuple):
        for each in value:
            check_range(name, each, owner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        usual: Range = ANY_INT if isinstance(value, int) else ANY_FLOAT
        allowed = range_of(owner, name.rpartition(".")[2]) or usual
        if not allowed.holds(value):
            raise ConfigurationError(f"{name} is {shown(value).strip(chr(39))}; it must be {allowed}")


def takes_anything(cls: type) -> bool:
    """Whether the constructors of `cls` hand unknown options on to something that is no class of its own."""
    parameters = [inspect.signature(each.__init__).parameters for each in cls.__mro__[:-1] if "__init__" in vars(each)]
    return bool(parameters) and all(any(p.kind is p.VAR_KEYWORD for p in each.values()) for each in parameters)


def is_collection(origin: Any) -> bool:
    """Whether `origin` is the class of a list of some kind."""
    return inspect.isclass(origin) and issubclass(origin, Iterable) and not issubclass(origin, Mapping | str)


def is_object(kind: Any) -> bool:
    """Whether `kind` is a class with options of its own."""
    return inspect.isclass(kind) and kind.__module__ not in ("builtins", "datetime") and get_origin(kind) is None


def told(kind: Any) -> str:
    """A type as a user would say it."""
    if kind in (None, type(None)):
        return "null"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(told, get_args(kind)))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is not None:
        inside = ", ".join("…" if each is Ellipsis else told(each) for each in get_args(kind))
        return f"{getattr(get_origin(kind), '__name__', kind)}[{inside}]"
    if is_object(kind):
        return f"options such as {', '.join(list(init_options(kind))[:4])}"
    return getattr(kind, "__name__", str(kind))


def shortened(name: Any) -> str:
    """The name of an option, which a wrong file may make as long as it likes."""
    text = str(name)
    return text if len(text) <= 80 else f"{text[:79]}…"
