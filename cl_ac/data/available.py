"""How much memory this process may still take, and what is said when there is no more."""

import functools
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from cl_ac.errors import DataError

CGROUP = Path("/sys/fs/cgroup")

P = ParamSpec("P")
R = TypeVar("R")


def available_bytes() -> int | None:
    """The least of what the machine has free, its control group allows and `ulimit -v` leaves; None if unknown."""
    limits = [_free_on_machine(), _left_in_group(), _left_in_address_space()]
    return min((limit for limit in limits if limit is not None), default=None)


def told_when_memory_runs_out(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose failed allocations, on the host or on a GPU, are one sentence that names the settings.

    Raises:
        DataError: from within `function`.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            # PyTorch has no exception of its own for the memory of the host.
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            wanted = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
            amount = f" ({wanted[1]} more were asked for)" if wanted else ""
            raise DataError(
                f"memory ran out{amount}; lower training.batch_size or the size of the images, or set "
                "benchmark.in_memory of image files to false"
            ) from error

    return wrapped


def _free_on_machine() -> int | None:
    lines = _text(Path("/proc/meminfo")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_group() -> int | None:
    limit, used = (_text(CGROUP / name).strip() for name in ("memory.max", "memory.current"))
    if not (limit.isdigit() and used.isdigit()):
        return None
    # Cached files count as used, and are given back when needed.
    statistics = dict(line.split() for line in _text(CGROUP / "memory.stat").splitlines())
    return max(int(limit) - int(used) + int(statistics.get("inactive_file", 0)), 0)


def _left_in_address_space() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(Path("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(limit - int(pages[0]) * resource.getpagesize(), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
