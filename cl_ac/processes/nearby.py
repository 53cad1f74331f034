"""Sums of a few numbers over the processes of one machine, without the threads and sockets of a network.

Batch norm over processes needs two such sums for each of its layers, one after the other. Gloo hands each to a thread
of its own and waits for it, which costs a processor more than half a millisecond; these are written and read where
they are needed.
"""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

# Of one message: what a socket takes without waiting for who reads it, so that all may write before they read.
BYTES = 2**16


class Nearby:
    """Connections to all other processes of a run, which are on this machine.

    Args:
        rank: of this process.
        connections: a socket to each other process, by its rank.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket]):
        self.rank, self.connections = rank, connections

    def takes(self, values: Tensor) -> bool:
        """Whether `add_up` can have these."""
        return values.device.type == "cpu" and values.nbytes <= BYTES

    def add_up(self, values: Tensor) -> None:
        """Replaces values by their sums over processes, added in the order of ranks: the same bits in each.

        Raises:
            RuntimeError: if another process is gone.
        """
        message = values.contiguous().view(torch.uint8).numpy().tobytes()
        try:
            for connection in self.connections.values():
                connection.sendall(message)
            rows = {rank: _read(each, len(message)) for rank, each in self.connections.items()}
        except OSError as error:
            raise RuntimeError(f"Connection closed: {error}") from error
        rows[self.rank] = bytearray(message)
        values.zero_()
        for rank in sorted(rows):
            values += torch.frombuffer(rows[rank], dtype=values.dtype).view_as(values)


def _read(connection: socket.socket, count: int) -> bytearray:
    message = bytearray(count)
    rest = memoryview(message)
    while rest:
        if not (got := connection.recv_into(rest)):
            raise ConnectionResetError("another process has ended")
        rest = rest[got:]
    return message


@contextmanager
def nearby(rank: int, size: int) -> Iterator[Nearby | None]:
    """Connections among the processes of a run; None if they are not all on this machine, or compute on GPUs."""
    if dist.get_backend() != "gloo" or int(os.environ.get("LOCAL_WORLD_SIZE", 0)) != size:
        yield None
        return
    with ExitStack() as held:
        door = held.enter_context(socket.socket(socket.AF_UNIX))
        # Linux keeps names that begin with a zero out of the file system.
        name = "\0cl_ac " + secrets.token_hex(16)
        door.bind(name)
        door.listen(size)
        doors = [""] * size
        # Also waits until all listen.
        dist.all_gather_object(doors, name)
        connections: dict[int, socket.socket] = {}
        for other in range(rank):
            connections[other] = held.enter_context(socket.socket(socket.AF_UNIX))
            connections[other].connect(doors[other])
            connections[other].sendall(rank.to_bytes(4, "big"))
        for _ in range(rank + 1, size):
            connection = held.enter_context(door.accept()[0])
            connections[int.from_bytes(_read(connection, 4), "big")] = connection
        yield Nearby(rank, connections)
