"""Ray: a cluster that runs already, or one that is begun on this machine.

Ray schedules the pieces of a study or a search, shares out GPUs, also by fractions, and begins a piece again elsewhere
when its worker or its machine is gone.
"""

import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

import cl_ac
from cl_ac.errors import ConfigurationError, UserError, told
from cl_ac.studies.shared import mark

# A piece whose worker or machine is gone is begun again so often: it loses an unfinished epoch each time.
RETRIES = 5
ANSWER = 5.0  # seconds that a cluster has to answer


@dataclass(frozen=True)
class Place:
    """Where the driver stands.

    Args:
        folder: its current one; None if workers keep to the copy of it that Ray brings them.
        marker: a file in the folder of what is made, which is there on machines that share it.
        same_machine: whether all workers have the driver's disk.
        threads: of PyTorch, for each piece.
    """

    folder: str | None
    marker: str
    same_machine: bool
    threads: int

    def enter(self) -> bool:
        """Makes this worker stand there too; returns whether it sees the folder of what is made."""
        torch.set_num_threads(self.threads)
        is_shared = self.same_machine or Path(self.marker).exists()
        if is_shared and self.folder:
            os.chdir(self.folder)
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        return is_shared


@dataclass(frozen=True)
class Cluster:
    """Workers of Ray, which is connected.

    Args:
        address: of the cluster; None for one that was begun on this machine.
        cpus: of each piece.
        gpus: of each piece, perhaps a fraction.
        most: pieces at a time; None for as many as the cluster has room for.
    """

    address: str | None
    cpus: float
    gpus: float
    most: int | None

    def __str__(self) -> str:
        room = self.room()
        return f"at most {room if self.most is None else min(self.most, room)} at a time, on Ray"

    def room(self) -> int:
        """How many pieces the machines that are there now can do at a time."""
        return sum(self._room_on(node) for node in ray.nodes() if node["Alive"])

    def _room_on(self, node: dict[str, Any]) -> int:
        has = node["Resources"]
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        return int(min(has.get(name, 0.0) / amount for name, amount in asked.items() if amount))

    @contextmanager
    def seen_from(self, out: Path) -> Iterator[Place]:
        """Where this process stands, for workers that work in the folder `out`."""
        marker, folder = mark(out), Path.cwd()
        # Who has the folder has this one too, if that is inside; of others only Ray's copy is sure to be it.
        known = self.address is None or out.is_relative_to(folder)
        try:
            yield Place(str(folder) if known else None, str(marker), self.address is None, max(1, int(self.cpus)))
        finally:
            marker.unlink(missing_ok=True)

    def share_out(
        self,
        work: Callable[..., Any],
        pieces: Sequence[tuple],
        begin: Callable[[int], None],
        look: Callable[[set[int]], None] = lambda running: None,
    ) -> Generator[tuple[int, Any, bool], None, None]:
        """Lets workers do all pieces, in order; they stop when the caller goes on or is interrupted.

        Args:
            work: is called with each piece.
            begin: is told the index of a piece that begins.
            look: is told every second which pieces are being done.
        Yields:
            As they end: the index of a piece, what came of it or Ray's error, and whether its worker or machine was
            lost, again and again.
        Raises:
            UserError: if a piece raises it.
        """
        task: Any = ray.remote(work).options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)
        waiting, running = deque(range(len(pieces))), dict[Any, int]()
        try:
            while waiting or running:
                while waiting and len(running) < min(self.most or len(pieces), max(1, self.room())):
                    index = waiting.popleft()
                    begin(index)
                    running[task.remote(*pieces[index])] = index
                ended, _ = ray.wait(list(running), timeout=1.0)
                for one in ended:
                    yield running.pop(one), *_result(one)
                look({*running.values()})
        finally:
            for one in running:
                ray.cancel(one, force=True)


def _result(piece: Any) -> tuple[Any, bool]:
    """What came of a piece, or Ray's error, and whether its worker or machine was lost each time."""
    try:
        return ray.get(piece), False
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError):
        return None, True
    except RayError as error:
        if isinstance(cause := getattr(error, "cause", None), UserError):
            raise cause from None
        return error, False


@contextmanager
def cluster(address: str | None, cpus: float, gpus: float, most: int | None) -> Iterator[Cluster]:
    """Connects to the cluster at `address`, or begins one on this machine that ends with the command.

    Raises:
        ConfigurationError: if it does not answer, or none of its machines has room for a piece.
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
        found = Cluster(address, cpus, gpus, most)
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
