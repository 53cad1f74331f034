"""The files of a run that is made on another machine: in a folder that both share, or carried back and forth."""

import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from cl_ac.errors import ConfigurationError
from cl_ac.recording.files import UNFINISHED, write_atomically
from cl_ac.recording.lock import exclusive

# The last to be written: what a checkpoint says is finished must be there.
CHECKPOINT = "checkpoint.pt"


def mark(folder: Path) -> Path:
    """A file of a new name in `folder`, by which another machine sees whether it has the same folder there."""
    path = folder / f".{uuid4().hex}{UNFINISHED}"
    path.touch()
    return path


def changed_files(folder: Path, known: dict[str, tuple[int, int]]) -> dict[str, bytes]:
    """The files below `folder` that are not as in `known`, which is brought up to date; the checkpoint last."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*"), key=lambda each: each.name == CHECKPOINT):
        if not path.is_file() or path.name == "lock" or path.name.endswith(UNFINISHED):
            continue
        details, name = path.stat(), str(path.relative_to(folder))
        stamp = details.st_mtime_ns, details.st_size
        if known.get(name) != stamp:
            known[name], found[name] = stamp, path.read_bytes()
    return found


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes what `changed_files` gave, in its order, each file whole or not at all."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file, content=content: file.write_bytes(content))


def wait_for(folder: Path, seconds: float) -> None:
    """Waits until no process is at work in a run's folder: one whose driver is gone may take a while to end."""
    end = time.monotonic() + seconds
    while (folder / "lock").exists():
        try:
            with exclusive(folder / "lock"):
                return
        except ConfigurationError:
            if time.monotonic() > end:
                return  # the run says who holds it
            time.sleep(0.2)
