"""The runs in a folder, and which of them can be read, so that a damaged one does not hide the others."""

from collections.abc import Callable, Iterable
from pathlib import Path

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.files import reading
from cl_ac.recording.hyperparameters import hyperparameters
from cl_ac.recording.rundir import RunDirectory


def runs_in(path: Path) -> list[RunDirectory]:
    """The run in a folder, or those in its subfolders by name; none in the folder of an earlier report.

    Raises:
        ConfigurationError: if there is neither.
    """
    names = "config.yaml", "metrics.jsonl"
    if any((path / name).exists() for name in names):
        return [RunDirectory(path)]
    found = sorted({file.parent for name in names for file in path.glob(f"*/{name}")})
    if not found and not (path / "report.html").exists():
        raise ConfigurationError(f"'{path}' holds no run (no config.yaml in it)")
    return [RunDirectory(each) for each in found]


def check(directory: RunDirectory) -> None:
    """Reads everything that a report is made of.

    Raises:
        UserError: names the file that cannot be read.
    """
    with reading(directory.config_path, "`cl-ac run --resume` with the same settings mends it"):
        hyperparameters(directory.config)
    if records := directory.records:
        directory.outputs(records[-1].task)
        directory.watched_all()
        directory.drift()


def sound(directories: Iterable[RunDirectory], tell: Callable[[str], None]) -> list[RunDirectory]:
    """The runs that can be read; `tell` is called with a sentence for each of the others.

    Raises:
        UserError: if there are others only: the sentence of the first.
    """
    found, problems = [], []
    for directory in directories:
        try:
            check(directory)
        except UserError as error:
            problems.append(error)
        else:
            found.append(directory)
    if problems and not found:
        raise problems[0]
    for problem in problems:
        tell(f"left out: {problem}")
    return found
