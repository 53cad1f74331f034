"""The command line before it is parsed: slips in the order of options, which the parser cannot name."""

from collections.abc import Mapping, Sequence

import yaml

from cl_ac.errors import ConfigurationError, unknown
from cl_ac.settings.plugins import dotted, of_library, shown
from cl_ac.settings.reading import check_size, read

LONGEST = 20_000


def checked_arguments(arguments: Sequence[str], classes: Mapping[str, Mapping[str, type]]) -> list[str]:
    """`arguments`, a little completed: `--loggers csv` as a list, the class that `--approach.help` is about,
    `--backbone timm:resnet18` as a class with its model.

    Args:
        classes: the known classes by name, for each kind of plugin.
    Raises:
        ConfigurationError: if one is longer or deeper than an option can be, or comes before what it depends on.
    """
    split = [part for argument in arguments for part in parts(argument)]
    for value in split:
        check_value(value)
    check_preset(split)
    completed: list[str] = []
    for index, argument in enumerate(split):
        option, _, field = argument.partition(".")
        kind = option.removeprefix("--")
        if argument.startswith("--") and field and kind in classes:
            if field == "help":
                argument = helped(kind, split, index, classes[kind])
            elif option not in completed and "--config" not in completed:
                raise ConfigurationError(f"give {option} before {argument}, so that its options are known")
        if completed[-1:] == ["--loggers"] and not argument.startswith(("[", "-")):
            argument = f"[{argument}]"
        # By its path, since a plugin may have the name of a class of ours.
        before = completed[-1].removeprefix("--").removesuffix(".help") if completed else ""
        short = of_library(before, argument)
        if cls := classes.get(before, {}).get(short[0] if short else argument):
            argument = dotted(cls)
        completed += [argument, f"--{before}.model", short[1]] if short else [argument]
    return completed


def parts(argument: str) -> list[str]:
    """An option and its value, where one argument holds both."""
    name, equals, value = argument.partition("=")
    return [name, value] if argument.startswith("--") and equals and not value.startswith("-") else [argument]


def check_value(value: str) -> None:
    """Checks that the value of an option is no more work than it is long."""
    if len(value) > LONGEST:
        raise ConfigurationError(f"the option {shown(value)} has {len(value)} characters; at most {LONGEST} are read")
    try:
        check_size(value)
    except yaml.YAMLError:
        pass  # a word that is no YAML is a word
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the option {shown(value)} is not read: {error}") from None


def check_preset(arguments: Sequence[str]) -> None:
    """Checks that no options are given to a preset of exits, which would be left out in silence."""
    last, options, file = None, [], None
    for index, argument in enumerate(arguments):
        if argument == "--exits" and index + 1 < len(arguments):
            last = arguments[index + 1]
        elif argument == "--config" and index + 1 < len(arguments):
            file = arguments[index + 1]
        elif argument.startswith("--exits."):
            options.append(argument)
    if last is None and options and file and isinstance(preset := read(file).get("exits"), str):
        last = preset
    if last is not None and options and not last.startswith(("{", "null")):
        raise ConfigurationError(
            f"--exits {shown(last)} is a preset, which takes no {options[0]}; "
            "give --exits.at and --exits.weights in place of the preset"
        )


def helped(kind: str, arguments: Sequence[str], index: int, known: Mapping[str, type]) -> str:
    """`--<kind>.help` with the class that follows, or else the one that the command line takes."""
    following = arguments[index + 1] if index + 1 < len(arguments) else "--"
    if not following.startswith("--"):
        return arguments[index]
    if f"--{kind}" in arguments[:-1]:
        return f"--{kind}.help={arguments[arguments.index(f'--{kind}') + 1]}"
    raise ConfigurationError(unknown(kind, "", known).replace(f"unknown {kind} ''", f"--{kind}.help needs a class"))
