"""All runs of a study, by whatever engine does them."""

import io
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.progress import Standing
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent, summarise
from cl_ac.studies.study import Study, run_name

# Makes one run from the options of `cl-ac run`, and tells how far it is; a function that a new process can import.
Start = Callable[[list[str], Callable[[Standing], None] | None], None]


class Engine(Protocol):
    """What does pieces of work, several at a time; `local.Local` says what is asked of it. Its text says how many."""

    def do(
        self, work: Callable[..., Any], pieces: Sequence[tuple], begin: Callable[[int], None]
    ) -> Generator[tuple[int, Any, bool], None, None]: ...


def run_all(study: Study, out: Path, engine: Engine, console: Console, start: Start) -> dict[str, RunDirectory]:
    """Runs what is not finished yet; a failed run is reported and the others go on.

    Returns:
        The finished runs by name.
    Raises:
        ConfigurationError: if the folder of the runs cannot be made.
    """
    cells = list(study.cells())
    names = [run_name(cell) for cell in cells]
    make(out)
    before = sum(is_complete(RunDirectory(out / name)) for name in names)
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"{len(cells)} runs in {out}, {before} of them finished before; {engine}")

    finished: dict[str, RunDirectory] = {}
    pieces = [(study.arguments(cell), str(out), name) for cell, name in zip(cells, names, strict=True)]
    ended = engine.do(partial(run_one, start), pieces, lambda index: say(f"begins  {names[index]}"))
    with closing(ended):
        for count, (index, problem, killed) in enumerate(ended, start=1):
            name = names[index]
            if killed:
                problem = (
                    "its process was killed again and again, perhaps for want of memory; repeat the command to go on"
                )
            if problem is None:
                # Whose settings may name plugins: they are those of the study itself.
                finished[name] = RunDirectory(out / name, trusted=True)
                result = f"{percent(summarise(finished[name]).accuracy)} % of the test samples"
            else:
                result = f"failed: {problem}"
            say(f"{count}/{len(cells)}  {name}  {result}")
    return finished


def make(out: Path) -> None:
    """Makes the folder of the runs.

    Raises:
        ConfigurationError: if it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to '{out}' (--out): {error.strerror}") from error


def is_complete(directory: RunDirectory) -> bool:
    """Whether all tasks of a run are finished, as far as it tells how many there are."""
    records = directory.records
    return bool(records) and records[-1].task + 1 == directory.tasks_in_all


def run_one(
    start: Start, arguments: list[str], out: str, name: str, on_progress: Callable[[Standing], None] | None = None
) -> str | None:
    """Runs one combination in this process and returns what went wrong, or None."""
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            start([*arguments, "--out", out, "--name", name, "--resume"], on_progress)
    except UserError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None
