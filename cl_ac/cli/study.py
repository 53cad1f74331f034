"""`cl-ac study`: runs every combination of some settings."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.run import command as start
from cl_ac.cli.show import show
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.settings.parser import parse
from cl_ac.studies.local import Local
from cl_ac.studies.results import check_writable, rows, table, write_results
from cl_ac.studies.runs import run_all
from cl_ac.studies.study import Study


def command(arguments: Sequence[str]) -> None:
    """`cl-ac study`: runs a grid of settings and tabulates it."""
    parser = ArgumentParser(prog="cl-ac study", description="Runs a grid of settings.", exit_on_error=False)
    parser.add_argument("study", type=str, help="YAML file with 'config', 'grid' and perhaps 'set'")
    parser.add_argument("--out", type=str, default="runs/study", help="the folder of the runs; finished ones are kept")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--results", type=str | None, default=None, help="write the table to this JSON file")
    settings = parse(parser, arguments)

    study, console = Study.read(settings.study), Console(stderr=True)
    if settings.workers < 1:
        raise ConfigurationError(f"--workers is {settings.workers}; it must be at least 1")
    if settings.results:
        check_writable(Path(settings.results))
    engine = Local(settings.workers, not study.names_devices)
    finished = run_all(study, Path(settings.out), engine, console, start)
    results = rows(study, finished)
    show(table(study, results))
    if settings.results:
        write_results(Path(settings.results), study, results)
    if missing := sum(1 for _ in study.cells()) - len(finished):
        raise UserError(f"{missing} of the runs failed; the table is without them")
