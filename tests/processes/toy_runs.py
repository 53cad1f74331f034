"""Approaches on the toy benchmark, run by one of several processes or alone: `toy_runs.py FOLDER EXITS [NAME …]`.

The first process leaves the folders of the runs, and each a digest of what it holds at their ends.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from rich.console import Console

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "approaches")]

from conftest import TOY_TRAINING, ToyBackbone, ToyBenchmark, ToyTransformer  # noqa: E402
from test_contract import APPROACHES, make, memory_for  # noqa: E402

from cl_ac.data.seeding import global_stream  # noqa: E402
from cl_ac.memory import Memory  # noqa: E402
from cl_ac.network import NO_EXITS  # noqa: E402
from cl_ac.processes.group import together  # noqa: E402
from cl_ac.recording.rundir import RunDirectory  # noqa: E402
from cl_ac.run import run  # noqa: E402


def digest(*states: dict) -> str:
    """Of all tensors of states, bit for bit."""
    found = hashlib.sha256()
    for state in states:
        for name, value in sorted(state.items()):
            if isinstance(value, torch.Tensor):
                found.update(name.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def toy_run(name: str, folder: Path, exits: str) -> str:
    """One run of two tasks; returns the digest of everything that this process has at its end."""
    approach = make(name)
    with global_stream(0, "backbone"):
        backbone = ToyTransformer() if approach.needs_transformer else ToyBackbone()
    run(
        approach,
        ToyBenchmark(tasks=2),
        backbone,
        RunDirectory(folder / name),
        NO_EXITS if exits == "none" else backbone.exits(exits),
        TOY_TRAINING,
        Memory(memory_for(name)),
        device="cpu",
        loggers=(),
        console=Console(quiet=True),
    )
    return digest(approach.state_dict(), backbone.state_dict())


if __name__ == "__main__":
    folder, exits, *names = sys.argv[1:]
    torch.set_num_threads(1)
    with together() as group:
        digests = {name: toy_run(name, Path(folder), exits) for name in names or APPROACHES}
        (Path(folder) / f"process_{group.rank}.json").write_text(json.dumps(digests))
