"""Which engine does the runs of a study or a search: the options that say so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from cl_ac.errors import ConfigurationError
from cl_ac.studies.local import Local
from cl_ac.studies.runs import Engine

if TYPE_CHECKING:
    from cl_ac.studies.cluster import Cluster


def add_options(parser: ArgumentParser) -> None:
    """Options of the engine."""
    parser.add_argument(
        "--workers",
        type=int | None,
        default=None,
        help="runs at a time; absent means 1, or as many as Ray has room for",
    )
    parser.add_argument(
        "--engine", type=Literal["local", "ray"], default="local", help="processes on this machine, or Ray"
    )
    parser.add_argument(
        "--address", type=str | None, default=None, help="of a Ray cluster, host:port or auto; absent begins one here"
    )
    parser.add_argument("--gpus_per_run", type=float | None, default=None, help="of Ray, such as 0.25; 0 if absent")
    parser.add_argument("--cpus_per_run", type=float | None, default=None, help="of Ray; 1 if absent")


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
def engine_of(settings: Namespace, share_gpus: bool, on_ray: "Callable[[Cluster], Engine]") -> Iterator[Engine]:
    """What makes the runs.

    Args:
        share_gpus: as of `local.Local`.
        on_ray: the engine on a cluster that is connected.
    Raises:
        ConfigurationError: if Ray is asked for and is not installed, does not answer, or has no room for a run.
    """
    if settings.engine == "local":
        yield Local(settings.workers or 1, share_gpus)
        return
    if find_spec("ray") is None:
        raise ConfigurationError("--engine ray needs the package ray; install it with pip install 'cl_ac[ray]'")
    from cl_ac.studies.cluster import cluster

    with cluster(
        settings.address, settings.cpus_per_run or 1.0, settings.gpus_per_run or 0.0, settings.workers
    ) as connected:
        yield on_ray(connected)
