"""The command line: finds the command, and turns what a user can mend into one sentence."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cl_ac import __version__
from cl_ac.errors import ConfigurationError, UserError, unknown
from cl_ac.processes.word import leave_word

# Each is a file beside this one, imported when it is asked for.
COMMANDS = {
    "approaches": "list the methods there are",
    "run": "train an approach on a benchmark",
    "study": "run every combination of some settings, and tabulate means over seeds",
    "tune": "choose settings by accuracy on held-out images",
    "report": "compare finished runs",
    "exits": "what the exits of a finished run are worth",
    "attach": "train auxiliary classifiers on the frozen network of a finished run",
    "retrieve": "teach two towers to find what belongs together, domain after domain",
    "convert": "make a finished run's transformer compute only what each input needs",
    "simulate": "train generative experts in place of a calorimeter's Monte-Carlo",
    "moderate": "judge texts by all layers of a language model: fit, score, serve",
    "sound": "networks that stand for recordings, emitted in one pass: fit | reconstruct",
}
# What to do after Ctrl-C; the other commands have nothing to go on with.
GO_ON = {
    "sound": "; repeat the command with --resume to go on, finished epochs are kept",
    "run": "; repeat the command with --resume to go on",
    "retrieve": "; repeat the command with --resume to go on",
    "study": "; repeat the command to go on, finished runs are kept",
    "tune": "; repeat the command to go on, finished trials are kept",
    "simulate": "; repeat the command to go on, finished mixtures are kept",
}
USAGE = "\n".join(
    [
        "usage: cl-ac COMMAND [options]",
        "",
        *(f"  {name:10} {text}" for name, text in COMMANDS.items()),
        "",
        "`cl-ac COMMAND --help` lists all options, `cl-ac --version` says which version this is.",
    ]
)
LONGEST = 1200


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, or 2 for a mistake of the user."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    try:
        find_plugins_last()
        try:
            if name in ("-h", "--help"):
                print(USAGE)
            elif name == "--version":
                print(f"cl_ac {__version__}")
            elif name in COMMANDS:
                import_module(f"cl_ac.cli.{name}").command(rest)
            else:
                raise ConfigurationError(unknown("command", name, COMMANDS))
        finally:
            sys.stdout.flush()
    except UserError as error:
        # Of the processes of one run, which mostly find the same, one says it; who started them hears of all.
        leave_word(str(error))
        if os.environ.get("RANK", "0") == "0":
            print(f"cl-ac: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if "RANK" not in os.environ:
            print(f"cl-ac: interrupted{GO_ON.get(name, '')}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who reads has seen enough, such as `head`; Python must not complain again when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def find_plugins_last() -> None:
    """A plugin in the current folder is found, but no file there takes the place of a module that others import."""
    try:
        folder = os.getcwd()
    except OSError as error:
        raise ConfigurationError(f"the current folder cannot be read: {error.strerror}") from error
    sys.path[:] = [*(path for path in sys.path if path not in ("", folder)), folder]


def printable(text: str) -> str:
    """`text` as one line that no terminal obeys, however long and strange a value in it is."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 200]} … {line[-190:]}"
