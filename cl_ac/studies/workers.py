"""Processes that do one piece of work after the other; one that is killed takes nothing but its own piece with it."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

# A piece whose process is killed is begun once more: a machine kills what takes too much memory, but also by mistake.
ATTEMPTS = 2


class Worker:
    """A process that imports everything once and then works until it is told nothing more.

    Args:
        work: is called with each piece; a function that a new process can import.
        threads: of PyTorch.
        gpu: what CUDA_VISIBLE_DEVICES is in it, if given.
    """

    def __init__(self, work: Callable[..., Any], threads: int, gpu: str | None = None):
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work, threads, gpu))
        with theirs, _without_interrupts():
            self.process.start()

    def close(self) -> None:
        """Kills the process; nothing of a run is lost but its unfinished epoch."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def share_out(
    pieces: Sequence[tuple], make: Callable[[int], Worker], workers: int, begin: Callable[[int], None]
) -> Generator[tuple[int, Any, bool], None, None]:
    """Lets `workers` processes do all pieces, in order; they are gone when the caller goes on or is interrupted.

    Args:
        pieces: arguments of each call.
        make: the worker for a place below `workers`.
        begin: is told the index of a piece that begins.
    Yields:
        As they end: the index of a piece, what came of it, and whether its process was killed, again and again.
    """
    waiting = deque((index, 1) for index in range(len(pieces)))
    busy: dict[Connection, tuple[int, Worker, int, int]] = {}
    free: dict[int, Worker | None] = dict.fromkeys(range(min(workers, len(pieces))))
    try:
        while waiting or busy:
            while waiting and free:
                place, (index, attempt) = min(free), waiting.popleft()
                worker = free.pop(place) or make(place)
                busy[worker.connection] = place, worker, index, attempt
                begin(index)
                _send(worker, pieces[index])
            ready = wait(list(busy))
            for connection in [each for each in busy if each in ready]:
                place, worker, index, attempt = busy[connection]
                try:
                    result, killed = connection.recv(), False
                except (EOFError, OSError):
                    result, killed = None, True
                del busy[connection]
                free[place] = worker
                if killed:
                    worker.close()
                    free[place] = None
                if killed and attempt < ATTEMPTS:
                    waiting.appendleft((index, attempt + 1))
                else:
                    yield index, result, killed
    finally:
        for worker in [worker for _, worker, _, _ in busy.values()] + [worker for worker in free.values() if worker]:
            worker.close()


def _send(worker: Worker, piece: tuple) -> None:
    # If it is dead already, the next look at its connection tells.
    with suppress(OSError):
        worker.connection.send(piece)


def _serve(connection: Connection, work: Callable[..., Any], threads: int, gpu: str | None) -> None:
    torch.set_num_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            piece = connection.recv()
        except EOFError:
            return  # the parent has let go of the other end
        connection.send(work(*piece))


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here never hears of Ctrl-C, which a terminal sends to all: its parent decides what to do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
