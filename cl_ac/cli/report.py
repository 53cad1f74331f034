"""`cl-ac report`: compares finished runs."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.show import show
from cl_ac.errors import ConfigurationError
from cl_ac.recording.soundness import runs_in, sound
from cl_ac.report.page import write_report
from cl_ac.report.tables import summary_table
from cl_ac.settings.parser import parse


def command(arguments: Sequence[str]) -> None:
    """`cl-ac report`: compares finished runs in a table, on a page, and in files."""
    parser = ArgumentParser(
        prog="cl-ac report",
        description="Compares runs: prints a table, and writes report.html (one page that needs no network), figures/ "
        "(SVG, PNG, PDF) and tables/ (CSV, Markdown, LaTeX). Runs that differ in their seed alone are averaged.",
        exit_on_error=False,
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, or folders of them")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the folder to write; absent means 'report' inside a single run, or beside the first of several",
    )
    settings = parse(parser, arguments)

    directories = [directory for path in settings.runs for directory in runs_in(Path(path))]
    if not directories:
        raise ConfigurationError(f"{', '.join(settings.runs)} holds a report and no run")
    first = directories[0].path
    folder = Path(settings.out) if settings.out else (first if len(directories) == 1 else first.parent) / "report"
    directories = sound(directories, Console(stderr=True, soft_wrap=True, highlight=False).print)
    if finished := [directory for directory in directories if directory.records]:
        show(summary_table(finished))
    print(write_report(directories, folder))
