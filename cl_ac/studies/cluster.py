"""A study's runs on Ray: on a cluster that runs already, or by itself on this machine.

Ray schedules the runs, shares out GPUs, also by fractions, and begins a run again elsewhere when its worker or its
machine is gone; the run goes on from its checkpoint. One actor beside the driver hears how far the runs are. Where
workers do not see the study's folder it also keeps their files, after each epoch.
"""

import logging
import os
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

import cl_ac
from cl_ac.errors import ConfigurationError, told
from cl_ac.recording.progress import Standing
from cl_ac.studies.progress import StudyProgress
from cl_ac.studies.shared import changed_files, mark, wait_for, write_files

# A run whose worker or machine is gone is begun again so often: it loses an unfinished epoch each time.
RETRIES = 5
# Seconds that a run waits for a process that was at it before and is about to end.
PATIENCE = 60.0
ANSWER = 5.0  # seconds that a cluster has to answer


@dataclass(frozen=True)
class Place:
    """Where the driver stands.

    Args:
        folder: its current one; None if workers keep to the copy of it that Ray brings them.
        marker: a file in the study's folder, which is there on machines that share it.
        same_machine: whether all workers have the driver's disk.
        threads: of PyTorch, for each run.
    """

    folder: str | None
    marker: str
    same_machine: bool
    threads: int


class Keeper:
    """Beside the driver: hears how far the runs are, and keeps the files of those that do not see the folder `out`."""

    def __init__(self, out: str):
        self.out = Path(out)
        self.heard: dict[str, Standing] = {}

    def hear(self, name: str, standing: Standing) -> None:
        self.heard[name] = standing

    def standings(self) -> dict[str, Standing]:
        return self.heard

    def files(self, name: str) -> dict[str, bytes]:
        """All files of a run."""
        return changed_files(self.out / name, {})

    def keep(self, name: str, files: dict[str, bytes]) -> None:
        write_files(self.out / name, files)


@dataclass(frozen=True)
class Cluster:
    """Workers of Ray, which is connected.

    Args:
        address: of the cluster; None for one that was begun on this machine.
        cpus: of each run.
        gpus: of each run, perhaps a fraction.
        most: runs at a time; None for as many as the cluster has room for.
        console: where progress is shown.
    """

    address: str | None
    cpus: float
    gpus: float
    most: int | None
    console: Console

    def __str__(self) -> str:
        room = self.room()
        return f"at most {room if self.most is None else min(self.most, room)} at a time, on Ray"

    def room(self) -> int:
        """How many runs the machines that are there now can make at a time."""
        return sum(self._room_on(node) for node in ray.nodes() if node["Alive"])

    def _room_on(self, node: dict[str, Any]) -> int:
        has = node["Resources"]
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        return int(min(has.get(name, 0.0) / amount for name, amount in asked.items() if amount))

    def do(
        self, work: Callable[..., Any], pieces: Sequence[tuple], begin: Callable[[int], None]
    ) -> Generator[tuple[int, Any, bool], None, None]:
        """Makes the runs of a study, as `local.Local` does.

        Args:
            work: as `runs.run_one`.
            pieces: options, folder and name of each run.
        """
        out = Path(pieces[0][1]).absolute()
        marker, folder = mark(out), Path.cwd()
        # Who has the study's folder has this one too, if that is inside; of others only Ray's copy is sure to be it.
        known = self.address is None or out.is_relative_to(folder)
        place = Place(str(folder) if known else None, str(marker), self.address is None, max(1, int(self.cpus)))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        beside: dict[str, Any] = {
            "num_cpus": 0,
            "scheduling_strategy": here,
            "max_restarts": RETRIES,
            "max_task_retries": RETRIES,
        }
        keeper: Any = ray.remote(Keeper).options(**beside).remote(str(out))
        task: Any = ray.remote(make_run).options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)
        waiting, running = deque(range(len(pieces))), dict[Any, int]()
        try:
            with StudyProgress(self.console, len(pieces)) as progress:
                while waiting or running:
                    while waiting and len(running) < min(self.most or len(pieces), max(1, self.room())):
                        index = waiting.popleft()
                        begin(index)
                        options, _, name = pieces[index]
                        running[task.remote(work, options, str(out), name, keeper, place)] = index
                    ended, _ = ray.wait(list(running), timeout=1.0)
                    for one in ended:
                        index = running.pop(one)
                        progress.end(pieces[index][2])
                        yield index, *_result(one)
                    names = {pieces[index][2] for index in running.values()}
                    heard = ray.get(keeper.standings.remote())
                    progress.show({name: standing for name, standing in heard.items() if name in names})
        finally:
            for one in running:
                ray.cancel(one, force=True)
            ray.kill(keeper)
            marker.unlink(missing_ok=True)


def _result(run: Any) -> tuple[Any, bool]:
    """What came of a run, and whether its worker or machine was lost each time."""
    try:
        return ray.get(run), False
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        return None, True
    except RayError as error:
        return told(error), False


@contextmanager
def cluster(address: str | None, cpus: float, gpus: float, most: int | None, console: Console) -> Iterator[Cluster]:
    """Connects to the cluster at `address`, or begins one on this machine that ends with the study.

    Raises:
        ConfigurationError: if it does not answer, or none of its machines has room for a run.
    """
    check_answers(address)
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": search_path()}}
    if address is not None:
        # What the user wrote here is found on other machines too: settings, plugins. Runs stay where they are.
        environment |= {"working_dir": os.getcwd(), "excludes": ["runs", ".git", "*.pt", "*.safetensors"]}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers are modest by default: beside anything else on this machine they would hardly run.
    own = {"num_cpus": os.cpu_count(), "include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    begun: dict[str, Any] = own if address is None else {}
    try:
        ray.init(
            address=address or "local",
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **begun,
        )
    except Exception as error:
        raise ConfigurationError(
            f"no Ray cluster can be used at '{address or 'local'}' (--address): {told(error)}"
        ) from error
    try:
        found = Cluster(address, cpus, gpus, most, console)
        if not found.room():
            each = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            has = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in each)
            raise ConfigurationError(
                f"no machine of the cluster has room for a run with {cpus:g} CPUs and {gpus:g} GPUs (--cpus_per_run, "
                f"--gpus_per_run); they have {has}"
            )
        yield found
    finally:
        ray.shutdown()


def check_answers(address: str | None) -> None:
    """Finds out in seconds whether anybody listens at an address `host:port`; Ray would try for minutes.

    Raises:
        ConfigurationError: if nobody does, or it is no address.
    """
    if address in (None, "auto"):
        return
    host, colon, port = str(address).removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigurationError(f"--address is '{address}'; expected host:port of a Ray cluster, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"no Ray cluster answers at '{address}' (--address): {told(error)}") from error


def search_path() -> str:
    """PYTHONPATH of workers: where this package stands comes first, if that is a checkout."""
    root = Path(cl_ac.__file__).parent.parent
    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(root), before] if (root / "approaches").is_dir() else [before]).strip(os.pathsep)


def make_run(work: Callable[..., Any], options: list[str], out: str, name: str, keeper: Any, place: Place) -> Any:
    """Makes one run in a worker of Ray, or goes on with it."""
    torch.set_num_threads(place.threads)
    is_shared = place.same_machine or Path(place.marker).exists()
    if is_shared and place.folder:
        os.chdir(place.folder)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if is_shared:
        wait_for(Path(out) / name, PATIENCE)
        return work(options, out, name, lambda standing: keeper.hear.remote(name, standing))
    with tempfile.TemporaryDirectory() as folder:
        known: dict[str, tuple[int, int]] = {}
        write_files(Path(folder) / name, ray.get(keeper.files.remote(name)))
        changed_files(Path(folder) / name, known)

        def carry_back() -> None:
            ray.get(keeper.keep.remote(name, changed_files(Path(folder) / name, known)))

        def hear(standing: Standing) -> None:
            keeper.hear.remote(name, standing)
            carry_back()

        problem = work(options, folder, name, hear)
        carry_back()
        return problem
