"""Files of a run: written whole or not at all, and one plain sentence where a file cannot be written or read."""

import errno
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import torch
from safetensors import SafetensorError

from cl_ac.errors import DamagedRun, StorageError, UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNFINISHED = ".unfinished"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a new file beside `path`, which then takes the place of `path` in one step.

    The new file has a name of its own, so that two writers never share one; the folder is made if there is none.

    Raises:
        StorageError: if the disk refuses it; the file that was at `path` is whole.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{token_hex(4)}{UNFINISHED}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(unfinished)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Adds `text` to the end of the file at `path`, made if there is none: all of it or nothing.

    Raises:
        StorageError: if the disk refuses it; the file is as it was.
    """
    with storing(path), path.open("ab", buffering=0) as file:
        size, rest = file.tell(), text.encode()
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what a disk refuses to write at `path` into one sentence.

    Raises:
        StorageError: instead of any library's word for it.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = _system_error(error)
        if cause is None:
            raise
        reason = os.strerror(cause.errno) if cause.errno else str(cause)
        raise StorageError(_refused(path, reason, cause.errno)) from error


def _system_error(error: BaseException | None) -> OSError | None:
    """The system's error behind one of PyTorch (which raises its own on top) or safetensors (which only quotes it)."""
    while error is not None and not isinstance(error, OSError):
        if isinstance(error, SafetensorError) and (quoted := re.search(r"os error (\d+)", str(error))):
            return OSError(int(quoted[1]), str(error))
        error = error.__context__
    return error


def save_state(content: object, path: Path) -> None:
    """What `torch.save` does, through a file of Python's, whose errors say why the disk refuses."""
    with path.open("wb") as file:
        torch.save(content, file)


def damage_of_zip(path: Path) -> str | None:
    """What is wrong with a file that `torch.save` wrote, by the checksums in it; None if nothing is.

    PyTorch reads past these checksums: it takes a flipped bit for another weight.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception:
        return "it is cut short, or something else was written over it"
    return None if changed is None else f"the checksum of its part '{changed}' is wrong, so the file has changed"


def _refused(path: Path, reason: str, number: int | None) -> str:
    way_out = "make room there" if number in NO_ROOM else "make it writable"
    return f"cannot write '{path}': {reason}; {way_out} and repeat the command (a run goes on with --resume)"


def writable_folder(path: Path) -> Path:
    """`path` as a folder in which files can be made; made if there is none.

    Raises:
        StorageError: if that cannot be.
    """
    with storing(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}-{token_hex(4)}{UNFINISHED}"
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
    return path


@contextmanager
def reading(path: Path, way_out: str) -> Iterator[None]:
    """Turns whatever goes wrong while the file at `path` is read and understood into one sentence.

    Args:
        way_out: what can be saved, or done about it.

    Raises:
        DamagedRun: names the file.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise DamagedRun(f"the run is damaged: '{path}' is missing; {way_out}") from error
    except PermissionError as error:
        raise StorageError(f"cannot read '{path}': {error.strerror}; make it readable") from error
    except Exception as error:
        # A file may hold anything, and each library has errors of its own for what it does not expect.
        raise DamagedRun(f"the run is damaged: '{path}' is cut short or changed; {way_out}") from error


def remove(paths: Iterable[Path]) -> None:
    """Removes files and folders with all that is in them."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
