"""`cl-ac run`: trains an approach on a benchmark."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from cl_ac import __version__
from cl_ac.cli.show import show
from cl_ac.errors import ConfigurationError
from cl_ac.recording.class_names import by_bare_name
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.tables import summary_table
from cl_ac.run import run
from cl_ac.settings.naming import run_name
from cl_ac.settings.objects import build
from cl_ac.settings.parser import parse, run_parser

# Of one folder or file, in bytes: what Linux's file systems take.
LONGEST_NAME = 255


def command(arguments: Sequence[str]) -> None:
    """`cl-ac run`: parses, builds what the settings describe, and runs it."""
    parser = run_parser()
    settings = parse(parser, arguments)
    settings.pop("config", None)
    plain = by_bare_name(yaml.safe_load(parser.dump(settings, skip_unset=False)))
    directory = RunDirectory(folder(settings.out, settings.name or ""))
    objects = build(parser, settings)
    if not settings.name:
        directory = RunDirectory(directory.path / run_name(plain, len(objects.benchmark)))
    if settings.resume:
        say_other_version(directory)
    run(
        **vars(objects),
        directory=directory,
        device=settings.device,
        seed=settings.seed,
        resume=settings.resume,
        loggers=settings.loggers,
        config=plain,
    )
    show(summary_table([directory]))
    print(f"results and TensorBoard events: {directory.path}")


def folder(out: str, name: str) -> Path:
    """The folder of a run; `~` is the home folder.

    Raises:
        ConfigurationError: if no folder can have that name.
    """
    try:
        path = Path(out).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"out is '{out}', but {str(error).lower()}") from error
    if long := [part for part in (path / name).parts if len(part.encode()) > LONGEST_NAME]:
        raise ConfigurationError(
            f"'{long[0][:40]}…' (--out and --name) has {len(long[0].encode())} bytes; "
            f"names of folders have at most {LONGEST_NAME}"
        )
    return path / name


def say_other_version(directory: RunDirectory) -> None:
    """Says in a line if another version of the package began the run in `directory`."""
    try:
        began = json.loads((directory.path / "provenance.json").read_text()).get("cl_ac")
    except (OSError, ValueError, AttributeError):
        return  # no run, or one whose damage is told elsewhere
    if began != __version__:
        print(f"cl-ac: the run was begun by version {began} and goes on with {__version__}", file=sys.stderr)
