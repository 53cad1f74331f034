"""Many runs: every combination of some settings, several at a time, and a table of means over seeds."""

import io
import itertools
import json
import os
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from cl_ac.errors import ConfigurationError
from cl_ac.report.held_out import held_out_accuracy
from cl_ac.report.tables import percent, summarise
from cl_ac.rundir import RunDirectory, provenance


@dataclass(frozen=True)
class Study:
    """What is varied.

    Args:
        config: the settings file that all runs start from.
        grids: the values of each setting that is varied, for each part of the study; `null` leaves a setting out.
        set: settings that all runs share, on top of the file's.
    """

    config: str
    grids: list[dict[str, list[Any]]]
    set: dict[str, Any]

    @staticmethod
    def read(path: str) -> "Study":
        """The study described in a YAML file.

        Raises:
            ConfigurationError: if the file is missing or does not describe one.
        """
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"cannot read the study '{path}': {' '.join(str(error).split())}") from error
        grids = content.get("grid") if isinstance(content, dict) else None
        grids = grids if isinstance(grids, list) else [grids]
        if not isinstance(content, dict) or "config" not in content or not all(map(_is_grid, grids)):
            raise ConfigurationError(
                f"the study '{path}' needs 'config', a settings file, and 'grid', lists of values or several such grids"
            )
        if extra := content.keys() - {"config", "grid", "set"}:
            raise ConfigurationError(f"the study '{path}' has unknown keys {sorted(extra)}; known: config, grid, set")
        return Study(content["config"], grids, content.get("set") or {})

    @property
    def varied(self) -> list[str]:
        """The settings that are varied, the seed aside."""
        return [name for name in dict.fromkeys(itertools.chain(*self.grids)) if name != "seed"]

    @property
    def names_devices(self) -> bool:
        """Whether the settings say where runs compute, `auto` aside."""
        try:
            content = yaml.safe_load(Path(self.config).read_text())
        except (OSError, yaml.YAMLError):
            content = None  # its runs complain of the file
        shared = {**(content if isinstance(content, dict) else {}), **self.set}
        return shared.get("device", "auto") != "auto" or any("device" in grid for grid in self.grids)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every combination of each grid."""
        for grid in self.grids:
            for values in itertools.product(*grid.values()):
                yield dict(zip(grid, values, strict=True))

    def arguments(self, cell: Mapping[str, Any]) -> list[str]:
        """The command line of one run."""
        options = {**self.set, **cell}
        # The class comes first, so that options of that class are known.
        options = dict(sorted(options.items(), key=lambda item: item[0].count(".")))
        given = [
            f"--{name}={json.dumps(v) if isinstance(v, list) else v}" for name, v in options.items() if v is not None
        ]
        return ["--config", self.config, *given]


def _is_grid(grid: Any) -> bool:
    return (
        isinstance(grid, dict) and bool(grid) and all(isinstance(values, list) and values for values in grid.values())
    )


def run_name(cell: Mapping[str, Any]) -> str:
    """A folder name for one combination."""
    return "_".join(f"{name}={value}" for name, value in cell.items() if value is not None).replace("/", "-")


def run_all(study: Study, out: Path, workers: int, console: Console) -> dict[str, RunDirectory]:
    """Runs what is not finished yet, `workers` at a time; a failed run is reported and the others go on.

    Workers share the GPUs of the machine evenly, unless the study names devices.

    Returns:
        The finished runs by name.
    """
    cells = list(study.cells())
    threads = max(1, (os.cpu_count() or 1) // workers)
    finished: dict[str, RunDirectory] = {}
    # A worker imports everything once and then runs one combination after the other.
    context = get_context("spawn")
    gpus = context.SimpleQueue()
    if not study.names_devices:
        for gpu in gpus_of_workers(workers, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")):
            gpus.put(gpu)
    pool = ProcessPoolExecutor(workers, context, begin_worker, (threads, gpus))
    with pool:
        started = [pool.submit(run_one, study.arguments(cell), str(out), run_name(cell)) for cell in cells]
        for count, (cell, future) in enumerate(zip(cells, started, strict=True), start=1):
            name = run_name(cell)
            try:
                problem = future.result()
            except BrokenProcessPool:
                problem = "its process was killed; start the study again to go on"
            if problem is None:
                finished[name] = RunDirectory(out / name)
                problem = percent(summarise(finished[name]).accuracy) + " %"
            else:
                problem = f"failed: {problem}"
            console.print(f"{count}/{len(cells)}  {name}  {problem}", highlight=False)
    return finished


def gpus_of_workers(workers: int, count: int, visible: str | None) -> list[str]:
    """The GPU that each worker may see, as CUDA_VISIBLE_DEVICES names it; none if there is nothing to share.

    Args:
        count: GPUs that this process sees.
        visible: CUDA_VISIBLE_DEVICES of this process, if set.
    """
    names = visible.split(",") if visible else [str(gpu) for gpu in range(count)]
    return [names[worker % count] for worker in range(workers)] if count > 1 else []


def begin_worker(threads: int, gpus: "SimpleQueue[str]") -> None:
    """Prepares a worker: its threads, its GPU if `gpus` holds any, and that it ends with its parent."""
    torch.set_num_threads(threads)
    if not gpus.empty():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def run_one(arguments: list[str], out: str, name: str) -> str | None:
    """Runs one combination in this process and returns what went wrong, or None."""
    from cl_ac.cli import main

    printed = io.StringIO()
    try:
        with redirect_stderr(printed), redirect_stdout(io.StringIO()):
            code = main(["run", *arguments, "--out", out, "--name", name, "--resume"])
    except Exception:
        return traceback.format_exc()
    return None if code == 0 else (printed.getvalue().strip().splitlines() or ["no message"])[-1]


@dataclass(frozen=True)
class Row:
    """One combination of settings over its seeds; accuracies in [0, 1].

    Args:
        settings: the combination, without the seed.
        seeds: runs that finished.
        accuracy, accuracy_std: final accuracy, mean over tasks: mean and sample deviation over seeds.
        incremental: average incremental accuracy.
        forgetting, forgetting_std: mean over the earlier tasks.
        seconds: mean time of a run.
        held_out: accuracy on held-out training samples after the last task, by which settings are chosen, mean over
            tasks; None if the runs held none out.
    """

    settings: dict[str, Any]
    seeds: int
    accuracy: float
    accuracy_std: float
    incremental: float
    forgetting: float
    forgetting_std: float
    seconds: float
    held_out: float | None


def rows(study: Study, finished: Mapping[str, RunDirectory]) -> list[Row]:
    """The study's results, one row for each combination."""
    groups: dict[str, tuple[dict[str, Any], list[RunDirectory]]] = {}
    for cell in study.cells():
        if (name := run_name(cell)) in finished:
            settings = {key: value for key, value in cell.items() if key != "seed"}
            groups.setdefault(run_name(settings), (settings, []))[1].append(finished[name])
    return [row(settings, directories) for settings, directories in groups.values()]


def row(settings: dict[str, Any], directories: Sequence[RunDirectory]) -> Row:
    """Mean and deviation over the seeds of one combination."""
    summaries = [summarise(directory) for directory in directories]
    held_out = [held_out_accuracy(directory) for directory in directories]
    accuracies = [summary.accuracy for summary in summaries]
    lost = [summary.forgetting for summary in summaries]
    return Row(
        settings,
        len(summaries),
        mean(accuracies),
        stdev(accuracies) if len(accuracies) > 1 else 0.0,
        mean(summary.incremental for summary in summaries),
        mean(lost),
        stdev(lost) if len(lost) > 1 else 0.0,
        mean(sum(record.seconds for record in directory.records) for directory in directories),
        None if None in held_out else mean(held_out),
    )


def table(study: Study, results: Sequence[Row]) -> Table:
    """The rows, in per cent, for people."""
    names = study.varied
    shown = Table(title="accuracy after the last task, %, mean ± deviation over seeds")
    held_out = ["held out"] if any(result.held_out is not None for result in results) else []
    for name in (*names, "seeds", *held_out, "accuracy", "incremental", "forgetting", "seconds"):
        shown.add_column(name, justify="left" if name in names else "right")
    for result in results:
        shown.add_row(
            *("–" if (value := result.settings.get(name)) is None else str(value) for name in names),
            str(result.seeds),
            *("–" if result.held_out is None else percent(result.held_out) for _ in held_out),
            f"{percent(result.accuracy)} ± {percent(result.accuracy_std)}",
            percent(result.incremental),
            f"{percent(result.forgetting)} ± {percent(result.forgetting_std)}",
            f"{result.seconds:.0f}",
        )
    return shown


def write_results(path: Path, study: Study, results: Sequence[Row]) -> None:
    """Writes the rows with what is needed to understand them later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"study": asdict(study), "provenance": provenance(), "rows": [asdict(result) for result in results]}
    path.write_text(json.dumps(content, indent=1) + "\n")
