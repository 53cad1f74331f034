"""`cl-ac study`: runs every combination of some settings."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli import engine
from cl_ac.cli.run import command as start
from cl_ac.cli.show import show
from cl_ac.errors import UserError
from cl_ac.settings.parser import parse
from cl_ac.studies.results import check_writable, rows, table, write_results
from cl_ac.studies.runs import Engine, run_all
from cl_ac.studies.study import Study

if TYPE_CHECKING:
    from cl_ac.studies.cluster import Cluster


def command(arguments: Sequence[str]) -> None:
    """`cl-ac study`: runs a grid of settings and tabulates it."""
    parser = ArgumentParser(prog="cl-ac study", description="Runs a grid of settings.", exit_on_error=False)
    parser.add_argument("study", type=str, help="YAML file with 'config', 'grid' and perhaps 'set'")
    parser.add_argument("--out", type=str, default="runs/study", help="the folder of the runs; finished ones are kept")
    parser.add_argument("--results", type=str | None, default=None, help="write the table to this JSON file")
    engine.add_options(parser)
    settings = parse(parser, arguments)

    study, console = Study.read(settings.study), Console(stderr=True)
    engine.check(settings)
    study.check()
    if settings.results:
        check_writable(Path(settings.results))
    with engine.engine_of(settings, not study.names_devices, partial(on_ray, console=console)) as chosen:
        finished = run_all(study, Path(settings.out), chosen, console, start)
    results = rows(study, finished)
    show(table(study, results))
    if settings.results:
        write_results(Path(settings.results), study, results)
    if missing := sum(1 for _ in study.cells()) - len(finished):
        raise UserError(f"{missing} of the runs failed; the table is without them")


def on_ray(cluster: "Cluster", console: Console) -> Engine:
    """Ray, with the progress of each run."""
    from cl_ac.studies.cluster_runs import ClusterRuns

    return ClusterRuns(cluster, console)
