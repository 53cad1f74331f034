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
from cl_ac.streams.class_incremental import ClassIncremental
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
        tasks: how many they may see.
        sizes: classes of each of them, where later tasks can be left out.
        all_tasks: whether those are all that there are.
        epochs: of each task, where the settings list them.
        uncut: the stream or the data set that cannot leave later tasks out, if there is one.
    """

    tasks: int
    sizes: list[int] | None
    all_tasks: bool
    epochs: list[int] | None
    uncut: str | None = None

    @staticmethod
    def of(search: Search, tasks: int | None = None) -> "Sight":
        """The first `tasks` tasks of the search's benchmark, or all.

        Raises:
            UserError: if an end of a range or a value of a list makes no run, there are fewer tasks, or later ones
                cannot be left out.
        """
        if judged := [name for name in search.space if name in NOT_CHOSEN or name.startswith("stream.")]:
            raise ConfigurationError(
                f"{judged[0]} is in the search's grid, but is no setting that can be chosen by a run's accuracy; "
                "give it under 'set'"
            )
        for probe in search.probes:
            made = check_choice(search, probe)
        total, epochs, uncut = len(made.benchmark), made.training.epochs, _uncut(made)
        if tasks is not None and not 1 <= tasks <= total:
            raise ConfigurationError(f"--tasks is {tasks}; the benchmark has {total} tasks to choose settings on")
        sizes = made.benchmark.sizes if uncut is None else None
        whole = Sight(total, sizes, True, epochs if isinstance(epochs, list) else None, uncut)
        return whole if tasks is None else whole.first(tasks)

    def first(self, tasks: int) -> "Sight":
        """The first `tasks` of these tasks.

        Raises:
            ConfigurationError: if the others cannot be left out.
        """
        if tasks == self.tasks:
            return self
        if self.uncut is not None:
            raise ConfigurationError(
                f"{self.uncut} cannot leave later tasks out of a run, so that no settings can be chosen on the first "
                f"{tasks} of {self.tasks}; --protocol held_out chooses on all"
            )
        listed = None if self.epochs is None else self.epochs[:tasks]
        return Sight(tasks, None if self.sizes is None else self.sizes[:tasks], False, listed)

    def options(self) -> dict[str, Any]:
        """The options of `cl-ac run` that leave the other tasks out."""
        fewer = {} if self.all_tasks else {"benchmark.classes_per_task": self.sizes}
        listed = {} if self.all_tasks or self.epochs is None else {"training.epochs": self.epochs}
        return {**fewer, **listed}


def check_choice(search: Search, chosen: Mapping[str, Value]) -> Configured:
    """The blind run on all tasks that a choice makes.

    Raises:
        UserError: if it makes none.
    """
    made = _configured(search.options(chosen, search.seeds[0]))
    check(made.approach, made.benchmark, made.training, made.memory, made.watch, made.classifier)
    return made


def prepared(options: Mapping[str, Any], sight: Sight, folder: Path) -> Configured:
    """The run in `folder` that `options` describe, which sees no more than it may.

    Raises:
        UserError: if `options` make no run, or its benchmark shows test images all the same.
    """
    where = {"out": str(folder.parent), "name": folder.name, "resume": True}
    made = _configured({**options, **sight.options(), **where})
    made.benchmark.seed = made.seed
    sees_others = len(made.benchmark) != sight.tasks or (
        sight.sizes is not None and made.benchmark.sizes != sight.sizes
    )
    if sees_others or any(task.test is not task.validation for task in made.benchmark.tasks):
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


def _uncut(made: Configured) -> str | None:
    """What cannot leave later tasks out, if anything: the first tasks of most streams depend on how many there are."""
    if type(made.benchmark.stream) is not ClassIncremental:
        return type(made.benchmark.stream).__name__
    if "classes_per_task" not in made.config["benchmark"]["init_args"]:
        return type(made.benchmark).__name__
    return None


def _configured(options: Mapping[str, Any]) -> Configured:
    # Nobody looks at their charts, and what decides is in a line of metrics.jsonl for each task.
    return configured({"loggers": [], "keep_outputs": 0, **options, "benchmark.evaluate_on": "validation"})
