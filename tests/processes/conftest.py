"""Real processes that do something together."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def in_processes() -> Callable[..., None]:
    """Runs a script of this folder with arguments in a number of processes."""

    def start(count: int, script: str, *arguments: str | Path) -> None:
        own = [str(HERE / script), *map(str, arguments)]
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"}
        for name in ("RANK", "WORLD_SIZE"):
            environment.pop(name, None)
        command = [sys.executable, *(several if count > 1 else []), *own]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]

    return start
