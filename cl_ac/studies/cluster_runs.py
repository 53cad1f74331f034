"""A study's runs on Ray: each goes on from its checkpoint wherever it is begun again.

One actor beside the driver hears how far the runs are. Where workers do not see the study's folder it also keeps their
files, after each epoch.
"""

import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from cl_ac.errors import told
from cl_ac.recording.progress import Standing
from cl_ac.studies.cluster import RETRIES, Cluster, Place
from cl_ac.studies.progress import StudyProgress
from cl_ac.studies.shared import changed_files, wait_for, write_files

# Seconds that a run waits for a process that was at it before and is about to end.
PATIENCE = 60.0


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
class ClusterRuns:
    """Makes the runs of a study on a cluster.

    Args:
        cluster: where.
        console: where progress is shown.
    """

    cluster: Cluster
    console: Console

    def __str__(self) -> str:
        return str(self.cluster)

    def do(
        self, work: Callable[..., Any], pieces: Sequence[tuple], begin: Callable[[int], None]
    ) -> Generator[tuple[int, Any, bool], None, None]:
        """Makes the runs of a study, as `local.Local` does.

        Args:
            work: as `runs.run_one`.
            pieces: options, folder and name of each run.
        """
        out, names = Path(pieces[0][1]).absolute(), [name for _, _, name in pieces]
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        beside: dict[str, Any] = {
            "num_cpus": 0,
            "scheduling_strategy": here,
            "max_restarts": RETRIES,
            "max_task_retries": RETRIES,
        }
        keeper: Any = ray.remote(Keeper).options(**beside).remote(str(out))
        try:
            with self.cluster.seen_from(out) as place, StudyProgress(self.console, len(pieces)) as progress:

                def look(running: set[int]) -> None:
                    heard, shown = ray.get(keeper.standings.remote()), {names[index] for index in running}
                    progress.show({name: standing for name, standing in heard.items() if name in shown})

                made = [(work, options, str(out), name, keeper, place) for options, _, name in pieces]
                for index, problem, killed in self.cluster.share_out(make_run, made, begin, look):
                    progress.end(names[index])
                    yield index, told(problem) if isinstance(problem, RayError) else problem, killed
        finally:
            ray.kill(keeper)


def make_run(work: Callable[..., Any], options: list[str], out: str, name: str, keeper: Any, place: Place) -> Any:
    """Makes one run in a worker of Ray, or goes on with it."""
    if place.enter():
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
