"""How the benchmarks of this folder take time."""

import time
from collections.abc import Callable

import torch


def seconds(device: torch.device, work: Callable[[], object], wall: bool = False) -> float:
    """Seconds of `work`: CPU time with one CPU thread, where other programs then do not count, else wall-clock time.

    Args:
        wall: wall-clock time even so.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1 and not wall
    clock = time.process_time if alone else time.perf_counter
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began
