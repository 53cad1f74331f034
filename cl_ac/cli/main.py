"""The command line: finds the command, and turns what a user can mend into one sentence."""

import sys
from collections.abc import Sequence
from importlib import import_module

from cl_ac.errors import ConfigurationError, UserError, unknown

# Each is a file beside this one, imported when it is asked for.
COMMANDS = {
    "run": "train an approach on a benchmark",
    "study": "run every combination of some settings, and tabulate means over seeds",
    "report": "compare finished runs",
    "exits": "what the exits of a finished run are worth",
    "attach": "train auxiliary classifiers on the frozen network of a finished run",
    "convert": "make a finished run's transformer compute only what each input needs",
}
# What to do after Ctrl-C; the other commands have nothing to go on with.
GO_ON = {
    "run": "; repeat the command with --resume to go on",
    "study": "; repeat the command to go on, finished runs are kept",
}
USAGE = "\n".join(
    [
        "usage: cl-ac COMMAND [options]",
        "",
        *(f"  {name:9} {text}" for name, text in COMMANDS.items()),
        "",
        "`cl-ac COMMAND --help` lists all options.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, or 2 for a mistake of the user."""
    # A plugin in the user's folder is found as it would be by `python script.py`.
    sys.path.insert(0, "")
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    try:
        if name in ("-h", "--help"):
            print(USAGE)
        elif name in COMMANDS:
            import_module(f"cl_ac.cli.{name}").command(rest)
        else:
            raise ConfigurationError(unknown("command", name, COMMANDS))
    except UserError as error:
        print(f"cl-ac: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cl-ac: interrupted{GO_ON.get(name, '')}", file=sys.stderr)
        return 130
    return 0
