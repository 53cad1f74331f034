"""`cl-ac study`: runs every combination of some settings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from cl_ac.cli.run import command as start
from cl_ac.cli.show import show
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.settings.parser import parse
from cl_ac.studies.local import Local
from cl_ac.studies.results import check_writable, rows, table, write_results
from cl_ac.studies.runs import Engine, run_all
from cl_ac.studies.study import Study


def command(arguments: Sequence[str]) -> None:
    """`cl-ac study`: runs a grid of settings and tabulates it."""
    parser = ArgumentParser(prog="cl-ac study", description="Runs a grid of settings.", exit_on_error=False)
    parser.add_argument("study", type=str, help="YAML file with 'config', 'grid' and perhaps 'set'")
    parser.add_argument("--out", type=str, default="runs/study", help="the folder of the runs; finished ones are kept")
    parser.add_argument(
        "--workers",
        type=int | None,
        default=None,
        help="runs at a time; absent means 1, or as many as Ray has room for",
    )
    parser.add_argument("--results", type=str | None, default=None, help="write the table to this JSON file")
    parser.add_argument(
        "--engine", type=Literal["local", "ray"], default="local", help="processes on this machine, or Ray"
    )
    parser.add_argument(
        "--address", type=str | None, default=None, help="of a Ray cluster, host:port or auto; absent begins one here"
    )
    parser.add_argument("--gpus_per_run", type=float | None, default=None, help="of Ray, such as 0.25; 0 if absent")
    parser.add_argument("--cpus_per_run", type=float | None, default=None, help="of Ray; 1 if absent")
    settings = parse(parser, arguments)

    study, console = Study.read(settings.study), Console(stderr=True)
    check(settings)
    if settings.results:
        check_writable(Path(settings.results))
    with engine_of(settings, study, console) as engine:
        finished = run_all(study, Path(settings.out), engine, console, start)
    results = rows(study, finished)
    show(table(study, results))
    if settings.results:
        write_results(Path(settings.results), study, results)
    if missing := sum(1 for _ in study.cells()) - len(finished):
        raise UserError(f"{missing} of the runs failed; the table is without them")


def check(settings: Namespace) -> None:
    """Raises a `ConfigurationError` for options that cannot be, or do not belong together."""
    if settings.workers is not None and settings.workers < 1:
        raise ConfigurationError(f"--workers is {settings.workers}; it must be at least 1")
    for name, low in (("address", None), ("gpus_per_run", 0.0), ("cpus_per_run", 0.001)):
        value = settings[name]
        if value is not None and settings.engine == "local":
            raise ConfigurationError(f"--{name} belongs to --engine ray, but --engine is local")
        if value is not None and low is not None and value < low:
            raise ConfigurationError(f"--{name} is {value:g}; it must be at least {low:g}")
    gpus = settings.gpus_per_run
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise ConfigurationError(f"--gpus_per_run is {gpus:g}; it must be at most 1, or a whole number")


@contextmanager
def engine_of(settings: Namespace, study: Study, console: Console) -> Iterator[Engine]:
    """What makes the runs.

    Raises:
        ConfigurationError: if Ray is asked for and is not installed, does not answer, or has no room for a run.
    """
    if settings.engine == "local":
        yield Local(settings.workers or 1, not study.names_devices)
        return
    if find_spec("ray") is None:
        raise ConfigurationError("--engine ray needs the package ray; install it with pip install 'cl_ac[ray]'")
    from cl_ac.studies.cluster import cluster

    cpus, gpus = settings.cpus_per_run or 1.0, settings.gpus_per_run or 0.0
    with cluster(settings.address, cpus, gpus, settings.workers, console) as engine:
        yield engine
