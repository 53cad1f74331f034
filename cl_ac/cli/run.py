"""`cl-ac run`: trains an approach on a benchmark."""

import json
import sys
from collections.abc import Callable, Sequence

from cl_ac import __version__
from cl_ac.cli.show import show
from cl_ac.processes.group import together
from cl_ac.processes.launch import check, launch
from cl_ac.recording.progress import Standing
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.tables import summary_table
from cl_ac.run import run
from cl_ac.settings.configured import from_settings
from cl_ac.settings.parser import parse, run_parser


def command(arguments: Sequence[str], on_progress: Callable[[Standing], None] | None = None) -> None:
    """`cl-ac run`: parses, builds what the settings describe, and runs it, on its own or with other processes.

    Args:
        on_progress: is told how far the run is, if this process makes it.
    """
    parser = run_parser()
    settings = parse(parser, arguments)
    with together() as group:
        if settings.devices > 1 and group.size == 1:
            check(settings.devices, settings.device)
            launch(settings.devices, ["run", *arguments])
            return
        configured = from_settings(parser, settings)
        if configured.resume and group.is_first:
            say_other_version(configured.directory)
        run(**vars(configured), on_progress=on_progress)
    if group.is_first:
        show(summary_table([configured.directory]))
        print(f"results and TensorBoard events: {configured.directory.path}")


def say_other_version(directory: RunDirectory) -> None:
    """Says in a line if another version of the package began the run in `directory`."""
    try:
        began = json.loads((directory.path / "provenance.json").read_text()).get("cl_ac")
    except (OSError, ValueError, AttributeError):
        return  # no run, or one whose damage is told elsewhere
    if began != __version__:
        print(f"cl-ac: the run was begun by version {began} and goes on with {__version__}", file=sys.stderr)
