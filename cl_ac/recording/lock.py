"""One process at a time in a folder."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cl_ac.errors import ConfigurationError
from cl_ac.recording.files import storing

# File systems that know no locks: the run goes on without.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """Holds a lock on the file at `path`, made if there is none; it says who holds it.

    The system releases it when the process ends, also when it is killed.

    Args:
        wait: until another process that holds it lets it go.
    Raises:
        ConfigurationError: if another process holds it, and `wait` is off.
        StorageError: if the file cannot be written.
    """
    with storing(path):
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "which it is cannot be seen from here"
            raise ConfigurationError(
                f"another process is at work in '{path.parent}' ({holder}); wait until it ends or stop it, or give "
                "another --name or --out"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        with storing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
