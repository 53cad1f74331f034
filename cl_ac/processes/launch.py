"""Starting the processes of one run on this machine."""

import logging
import os
import sys
from collections.abc import Sequence
from signal import Signals

import torch

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.processes.group import GONE


def check(devices: int, device: str) -> None:
    """Raises a `ConfigurationError` if this machine has not so many devices of the kind."""
    if device.startswith("cuda:"):
        raise ConfigurationError(f"device is '{device}', which is one GPU, but devices is {devices}; take device cuda")
    gpus = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    there, kind = (torch.cuda.device_count(), "GPUs") if gpus else (os.cpu_count() or 1, "processor cores")
    if devices > there:
        raise ConfigurationError(f"devices is {devices}, but this machine has {there} {kind}")


def launch(devices: int, arguments: Sequence[str]) -> None:
    """Runs `cl-ac` with `arguments` in as many processes that know of each other, and waits for them.

    Raises:
        UserError: if one of them was killed.
        SystemExit: with the exit code of the first that failed, which has said why.
    """
    # Costs seconds, and one process does without it.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It would say at length what is said below in one sentence, and this process has nothing else to say.
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // devices, 1)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=f"cl-ac {os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "cl_ac", *arguments)
    except SignalException as error:
        raise KeyboardInterrupt from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        words: dict[int, object] = {place: each.message for place, each in error.failures.items()}
        said = {place: str(word["message"]) for place, word in words.items() if isinstance(word, dict)}
        for place, message in said.items():
            # What the first process has found it has told.
            if place and message not in (said.get(0), GONE):
                raise UserError(message) from None
        if failure.exitcode >= 0:
            raise SystemExit(failure.exitcode) from None
        raise UserError(
            f"process {rank + 1} of {devices} was ended by {Signals(-failure.exitcode).name}; "
            "repeat the command with --resume to go on"
        ) from None
