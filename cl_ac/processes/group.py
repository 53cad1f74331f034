"""The processes that do one run together, as `torchrun` starts them.

Each does the whole run from the same seeds, so that memories, teachers and heads are the same everywhere without a
word between them. Only two things are shared out: the passes of the network in training (`shared`), and its answers
at evaluation (`gathered`).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.processes.nearby import Nearby, nearby


@dataclass(frozen=True)
class Group:
    """The processes of one run.

    Args:
        rank: of this one, from 0; the first alone writes the run's folder.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Which of `count` samples are this process's: shares as equal as can be, in the order of ranks."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gathered(self, values: Tensor, count: int) -> Tensor:
        """The rows of all processes [count, ...] of the rows that this one has of its `part`."""
        longest = -(-count // self.size)
        padded = values.new_zeros(longest, *values.shape[1:])
        padded[: len(values)] = values
        rows = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(rows, padded)
        sizes = [Group(rank, self.size).part(count) for rank in range(self.size)]
        return torch.cat([row[: part.stop - part.start] for row, part in zip(rows, sizes, strict=True)])

    def add_up(self, values: Tensor) -> None:
        """Replaces values by their sums over processes, the same bits in each."""
        near = _nearby.get()
        if near is not None and near.takes(values):
            near.add_up(values)
        else:
            dist.all_reduce(values)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def take_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Gives tensors the values that they have in the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


ALONE = Group()
_nearby: ContextVar[Nearby | None] = ContextVar("nearby", default=None)
GONE = "another process of this run has ended before its time; repeat the command with --resume to go on"
# What gloo and NCCL say when a process is gone.
LOST = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out waiting")


def local_rank() -> int:
    """Which process of those on this machine this one is."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def together() -> Iterator[Group]:
    """Joins the processes that `torchrun` has started beside this one; `ALONE` without it.

    Raises:
        UserError: if the others cannot be reached, or one of them ends before its time.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield current()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigurationError(f"the other processes of this run cannot be reached: {reason}") from error
    try:
        with nearby(dist.get_rank(), dist.get_world_size()) as near:
            token = _nearby.set(near)
            try:
                yield current()
            finally:
                _nearby.reset(token)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        raise UserError(GONE) from error
    finally:
        dist.destroy_process_group()


def current() -> Group:
    """The processes that do the present run."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return ALONE
