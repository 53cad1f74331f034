"""A study's runs on this machine, several at a time."""

import io
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from rich.console import Console

from cl_ac.errors import UserError
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent, summarise
from cl_ac.studies.study import Study, run_name


def run_all(
    study: Study, out: Path, workers: int, console: Console, start: Callable[[list[str]], None]
) -> dict[str, RunDirectory]:
    """Runs what is not finished yet, `workers` at a time; a failed run is reported and the others go on.

    Workers share the GPUs of the machine evenly, unless the study names devices.

    Args:
        start: makes one run from the options of `cl-ac run`; a function that a new process can import.
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
        started = [pool.submit(run_one, start, study.arguments(cell), str(out), run_name(cell)) for cell in cells]
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
