"""Runs by which settings are chosen: they see no test image, and no task that comes after those they may look at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_ac.compatibility import check
from cl_ac.errors import ConfigurationError
from cl_ac.recording.progress import Standing
from cl_ac.recording.rundir import RunDirectory
from cl_ac.run import run
from cl_ac.settings.configured import Configured, configured
from cl_ac.studies.search import Search, Value

# What judges the choices, or says where and how often they are judged, cannot be among them.
NOT_CHOSEN = (
    *("out", "name", "resume", "device", "devices", "loggers", "keep_checkpoints", "keep_outputs", "benchmark"),
    "stream",
    *(f"benchmark.{name}" for name in ("tasks", "first_task", "classes_per_task", "order")),
    *(f"benchmark.{name}" for name in ("validation", "evaluate_on", "samples_per_class", "test_samples_per_class")),
)


@dataclass(frozen=True)
class Sight:
    """What the runs of a search may see: held-out training images, of some tasks.

    Args:
        sizes: classes of each task that they may see.
        all_tasks: whether those are all that there are.
        epochs: of each task, where the settings list them.
    """

    sizes: list[int]
    all_tasks: bool
    epochs: list[int] | None

    @staticmethod
    def of(search: Search, tasks: int | None = None) -> "Sight":
        """The first `tasks` tasks of the search's benchmark, or all.

        Raises:
            UserError: if an end of a range or a value of a list makes no run, or there are fewer tasks.
        """
        if judged := [name for name in search.space if name in NOT_CHOSEN or name.startswith("stream.")]:
            raise ConfigurationError(
                f"{judged[0]} is in the search's grid, but is no setting that can be chosen by a run's accuracy; "
                "give it under 'set'"
            )
        for probe in search.probes:
            made = _configured(search.options(probe, search.seeds[0]))
            check(made.approach, made.benchmark, made.training, made.memory, made.watch, made.classifier)
        sizes, epochs = made.benchmark.sizes, made.training.epochs
        if tasks is not None and not 1 <= tasks <= len(sizes):
            raise ConfigurationError(f"--tasks is {tasks}; the benchmark has {len(sizes)} tasks to choose settings on")
        listed = epochs[:tasks] if isinstance(epochs, list) else None
        return Sight(sizes[:tasks], tasks in (None, len(sizes)), listed)

    def first(self, tasks: int) -> "Sight":
        """The first `tasks` of these tasks."""
        listed = None if self.epochs is None else self.epochs[:tasks]
        return Sight(self.sizes[:tasks], self.all_tasks and tasks == len(self.sizes), listed)

    def options(self) -> dict[str, Any]:
        """The options of `cl-ac run` that leave the other tasks out."""
        fewer = {} if self.all_tasks else {"benchmark.classes_per_task": self.sizes}
        listed = {} if self.all_tasks or self.epochs is None else {"training.epochs": self.epochs}
        return {**fewer, **listed}


def prepared(options: Mapping[str, Any], sight: Sight, folder: Path) -> Configured:
    """The run in `folder` that `options` describe, which sees no more than it may.

    Raises:
        UserError: if `options` make no run, or its benchmark shows test images all the same.
    """
    where = {"out": str(folder.parent), "name": folder.name, "resume": True}
    made = _configured({**options, **sight.options(), **where})
    made.benchmark.seed = made.seed
    if made.benchmark.sizes != sight.sizes or any(task.test is not task.validation for task in made.benchmark.tasks):
        raise ConfigurationError(
            f"{type(made.benchmark).__name__} does not leave out test images and later tasks when it is told to "
            "(benchmark.evaluate_on, benchmark.classes_per_task), so that no settings can be chosen on it"
        )
    return made


def run_blind(made: Configured, on_progress: Callable[[Standing], None] | None = None) -> RunDirectory:
    """Runs what `prepared` gave, or goes on with it, in silence; returns its folder."""
    run(**vars(made), console=Console(quiet=True), on_progress=on_progress)
    return made.directory


def best_settings(search: Search, chosen: Mapping[str, Value]) -> dict[str, Any]:
    """Complete settings for `cl-ac run --config` with some choices: evaluated on test images again, all tasks."""
    made = configured(search.options(chosen, search.seeds[0]))
    return {name: value for name, value in made.config.items() if name not in ("out", "name", "resume", "seed")}


def _configured(options: Mapping[str, Any]) -> Configured:
    # Nobody looks at their charts, and what decides is in a line of metrics.jsonl for each task.
    return configured({"loggers": [], "keep_outputs": 0, **options, "benchmark.evaluate_on": "validation"})
