"""A study's runs on this machine, several at a time."""

import io
import os
import traceback
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.hyperparameters import hyperparameters
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent, summarise
from cl_ac.studies.study import Study, run_name
from cl_ac.studies.workers import Worker, share_out


def run_all(
    study: Study, out: Path, workers: int, console: Console, start: Callable[[list[str]], None]
) -> dict[str, RunDirectory]:
    """Runs what is not finished yet, `workers` at a time; a failed run is reported and the others go on.

    Workers share the GPUs of the machine evenly, unless the study names devices.

    Args:
        start: makes one run from the options of `cl-ac run`; a function that a new process can import.
    Returns:
        The finished runs by name.
    Raises:
        ConfigurationError: if the folder of the runs cannot be made.
    """
    cells = list(study.cells())
    names = [run_name(cell) for cell in cells]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to '{out}' (--out): {error.strerror}") from error
    before = sum(is_complete(RunDirectory(out / name)) for name in names)
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"{len(cells)} runs in {out}, {before} of them finished before; at most {workers} at a time")

    threads = max(1, (os.cpu_count() or 1) // workers)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [] if study.names_devices else gpus_of_workers(workers, torch.cuda.device_count(), visible)

    def worker(place: int) -> Worker:
        return Worker(partial(run_one, start), threads, gpus[place] if gpus else None)

    finished: dict[str, RunDirectory] = {}
    pieces = [(study.arguments(cell), str(out), name) for cell, name in zip(cells, names, strict=True)]
    ended = share_out(pieces, worker, workers, lambda index: say(f"begins  {names[index]}"))
    with closing(ended):
        for count, (index, problem, killed) in enumerate(ended, start=1):
            name = names[index]
            if killed:
                problem = "its process was killed twice, perhaps for want of memory; repeat the command to go on"
            if problem is None:
                finished[name] = RunDirectory(out / name)
                result = percent(summarise(finished[name]).accuracy) + " %"
            else:
                result = f"failed: {problem}"
            say(f"{count}/{len(cells)}  {name}  {result}")
    return finished


def is_complete(directory: RunDirectory) -> bool:
    """Whether all tasks of a run are finished, as far as its settings tell how many there are."""
    records = directory.records
    return bool(records) and records[-1].task + 1 == hyperparameters(directory.config).get("benchmark.tasks")


def gpus_of_workers(workers: int, count: int, visible: str | None) -> list[str]:
    """The GPU that each worker may see, as CUDA_VISIBLE_DEVICES names it; none if there is nothing to share.

    Args:
        count: GPUs that this process sees.
        visible: CUDA_VISIBLE_DEVICES of this process, if set.
    """
    names = visible.split(",") if visible else [str(gpu) for gpu in range(count)]
    return [names[worker % count] for worker in range(workers)] if count > 1 else []


def run_one(start: Callable[[list[str]], None], arguments: list[str], out: str, name: str) -> str | None:
    """Runs one combination in this process and returns what went wrong, or None."""
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            start([*arguments, "--out", out, "--name", name, "--resume"])
    except UserError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None
