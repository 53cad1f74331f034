"""The pieces of a study on this machine, several at a time."""

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cl_ac.studies.workers import Worker, share_out


@dataclass(frozen=True)
class Local:
    """Processes on this machine.

    Args:
        workers: how many.
        share_gpus: whether they share the GPUs of the machine evenly; else they find those that their settings name.
    """

    workers: int
    share_gpus: bool = True

    def do(
        self, work: Callable[..., Any], pieces: Sequence[tuple], begin: Callable[[int], None]
    ) -> Generator[tuple[int, Any, bool], None, None]:
        """Lets the processes do all pieces, in order; they are gone when the caller goes on or is interrupted.

        Args:
            work: is called with each piece; a function that a new process can import.
            pieces: arguments of each call.
            begin: is told the index of a piece that begins.
        Yields:
            As they end: the index of a piece, what came of it, and whether its process was killed, again and again.
        """
        # Of the cores that this process may use: OMP_NUM_THREADS bounds them.
        threads = max(1, torch.get_num_threads() // self.workers)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = gpus_of_workers(self.workers, torch.cuda.device_count(), visible) if self.share_gpus else []

        def worker(place: int) -> Worker:
            return Worker(work, threads, gpus[place] if gpus else None)

        return share_out(pieces, worker, self.workers, begin)

    def __str__(self) -> str:
        return f"at most {self.workers} at a time"


def gpus_of_workers(workers: int, count: int, visible: str | None) -> list[str]:
    """The GPU that each worker may see, as CUDA_VISIBLE_DEVICES names it; none if there is nothing to share.

    Args:
        count: GPUs that this process sees.
        visible: CUDA_VISIBLE_DEVICES of this process, if set.
    """
    names = visible.split(",") if visible else [str(gpu) for gpu in range(count)]
    return [names[worker % count] for worker in range(workers)] if count > 1 else []
