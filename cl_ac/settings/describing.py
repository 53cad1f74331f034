"""What a class is, as its docstring says it: the parser's help has its first sentence and its options only."""

import inspect
import shutil
import textwrap
from collections.abc import Mapping, Sequence

from cl_ac.settings.plugins import resolve


def told_before_help(arguments: Sequence[str], plugins: Mapping[str, type]) -> str:
    """The description of the class whose options `--<kind>.help` in `arguments` asks for; empty if none is asked for.

    Args:
        plugins: the base class of each kind of plugin.
    Raises:
        ConfigurationError: if there is no such class.
    """
    for kind, base in plugins.items():
        for index, argument in enumerate(arguments):
            option, _, name = argument.partition("=")
            if option == f"--{kind}.help":
                cls = resolve(kind, base, name or arguments[index + 1], trusted=True)
                return described(cls, shutil.get_terminal_size().columns)
    return ""


def described(cls: type, width: int) -> str:
    """The docstring of `cls` down to its arguments, in lines of at most `width` characters."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("Args:")[0].strip()
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))
