"""Sums over the processes of one machine, here between threads."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cl_ac.processes.nearby import BYTES, Nearby


def connected(size: int) -> list[Nearby]:
    """The ends of connections between each two of as many."""
    connections: list[dict[int, socket.socket]] = [{} for _ in range(size)]
    for first in range(size):
        for second in range(first + 1, size):
            connections[first][second], connections[second][first] = socket.socketpair()
    return [Nearby(rank, each) for rank, each in enumerate(connections)]


def test_all_have_the_sum_in_the_order_of_ranks():
    # In doubles (1e16 + 1) - 1e16 is 0, and 1 in any order that leaves the 1 to the end.
    values = [torch.tensor([first, rank], dtype=torch.float64) for rank, first in enumerate((1e16, 1.0, -1e16))]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(Nearby.add_up, connected(3), values))
    assert [each.tolist() for each in values] == [[0.0, 3.0]] * 3


def test_the_largest_message_needs_no_reader():
    values = [torch.full((BYTES // 4,), float(rank)) for rank in (1, 2)]
    ends = connected(2)
    assert ends[0].takes(values[0])
    assert not ends[0].takes(torch.zeros(BYTES // 4 + 1))
    for end in ends:
        end.connections[1 - end.rank].settimeout(20)
    ends[1].connections[0].sendall(values[1].numpy().tobytes())
    ends[0].add_up(values[0])
    assert torch.equal(values[0], torch.full_like(values[0], 3.0))


def test_a_process_that_has_ended_is_told():
    ends = connected(2)
    ends[1].connections[0].close()
    with pytest.raises(RuntimeError, match="Connection closed"):
        ends[0].add_up(torch.zeros(2))
