"""The folder of a run that several processes do: the first writes it, the others keep one of their own meanwhile."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl_ac.processes.group import Group
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.fingerprint import TaskData
from cl_ac.recording.rundir import RunDirectory


@contextmanager
def opened(
    directory: RunDirectory,
    group: Group,
    config: Mapping[str, Any],
    resume: bool,
    data: Sequence[TaskData],
    tell: Callable[[str], None],
) -> Iterator[tuple[RunDirectory, Checkpoint]]:
    """The folder that this process writes to, locked, and where the run goes on; see `RunDirectory.open`."""
    if group.is_first:
        with directory.locked():
            checkpoint = directory.open(config, resume, data, tell)
            group.wait()  # it can be read from here on
            group.wait()  # it may change from here on
            yield directory, checkpoint
        return
    group.wait()
    with TemporaryDirectory() as place:
        path = Path(place) / directory.name
        if resume and directory.has_results:
            shutil.copytree(directory.path, path, ignore=shutil.ignore_patterns("events.*", "checkpoints", "lock"))
        group.wait()
        own = RunDirectory(path, directory.trusted, directory.usual, keeps_state=False)
        with own.locked():
            yield own, own.open(config, resume, data)
