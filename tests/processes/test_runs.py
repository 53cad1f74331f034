"""Two processes learn what one learns, with every approach."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory

# Where the last bit decides, answers are compared and not weights: a norm has every direction as its gradient at 0,
# where these distil from a network that did not move yet; adapters read zeros, on which a rectifier may turn either
# way; and the fit of a support vector machine ends early.
UNSTEADY = ("IL2A", "PASS", "SSRE", "APER", "EASE", "FeTrIL")


def states(folder: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.load(folder / name / "checkpoint.pt")
    both = {**checkpoint.network, **{f"approach.{key}": value for key, value in checkpoint.approach.items()}}
    return {name: value for name, value in both.items() if isinstance(value, torch.Tensor)}


# Without ACs it is the same code with one exit.
FEW = ("FineTuning", "EWC", "LwF", "ER", "SCR", "GEM", "BiC", "PODNet", "PASS", "DyER", "HAT", "L2P", "EASE", "RanPAC")


@pytest.mark.parametrize(("exits", "names"), [("none", FEW), ("sdn", ())])
def test_approaches_learn_with_two_processes_what_they_learn_with_one(in_processes, tmp_path, exits, names):
    folders = [tmp_path / "one", tmp_path / "two"]
    for count, folder in enumerate(folders, 1):
        folder.mkdir()
        in_processes(count, "toy_runs.py", folder, exits, *names)
    first, second = (json.loads((folders[1] / f"process_{rank}.json").read_text()) for rank in (0, 1))
    assert first == second, "the processes do not hold the same"
    assert len(first) == len(names) or len(first) > 40
    for name in first:
        if name in UNSTEADY:
            one, two = ({"logits": RunDirectory(folder / name).outputs(1).logits} for folder in folders)
        else:
            one, two = (states(folder, name) for folder in folders)
        assert one.keys() == two.keys()
        for key, value in one.items():
            largest = max(float(value.double().abs().max()) if value.numel() else 0.0, 1e-3)
            tolerance = (0.01 if name in UNSTEADY else 1e-4) * largest
            torch.testing.assert_close(two[key], value, rtol=0, atol=tolerance, msg=f"{name} {key}")


COMMAND = [
    *("run", "--config", str(Path(__file__).parents[2] / "scripts" / "benchmarks" / "digits_5x2.yaml")),
    *("--approach", "LwF", "--exits", "sdn", "--device", "cpu", "--benchmark.tasks", "2", "--name", "run"),
    *("--loggers", "[]", "--benchmark.samples_per_class", "20"),
]


def test_a_killed_process_ends_the_run_in_one_sentence_and_another_number_goes_on(tmp_path):
    command = [*COMMAND, "--out", str(tmp_path), "--training.epochs", "10"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [sys.executable, "-m", "cl_ac", *command, "--devices", "2"], env=environment, stderr=subprocess.PIPE, text=True
    )
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    told = started.communicate(timeout=60)[1]
    assert started.returncode == 2
    assert "Traceback" not in told
    assert "--resume" in told
    done = Checkpoint.load(checkpoint)
    assert done.task == 0
    assert main([*command, "--resume"]) == 0
    assert len(RunDirectory(tmp_path / "run").records) == 2


def test_a_mistake_is_told_once(tmp_path):
    command = [*COMMAND, "--out", str(tmp_path), "--memory.size", "-1", "--devices", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "cl_ac", *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("cl-ac:") == 1
    assert not (tmp_path / "run").exists()


def test_what_another_process_alone_finds_is_told(tmp_path):
    (tmp_path / "full.py").write_text(
        "import os\n"
        "from cl_ac.approaches.finetuning import FineTuning\n"
        "from cl_ac.errors import UserError\n\n\n"
        "class Full(FineTuning):\n"
        '    """Fails in one process."""\n\n'
        "    def end_task(self, task, network, trainer) -> None:\n"
        '        if os.environ.get("RANK") == "1":\n'
        '            raise UserError("there is no room here")\n'
    )
    command = [*COMMAND, "--approach", "full.Full", "--out", "runs", "--training.epochs", "1", "--devices", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cl_ac", *command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "cl-ac: there is no room here" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_run_says_so_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--out", str(tmp_path), "--training.epochs", "200", "--devices", "2"]
    started = subprocess.Popen(
        [sys.executable, "-m", "cl_ac", *command],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)
    told = started.communicate(timeout=60)[1]
    assert started.returncode == 130
    assert told.count("interrupted") == 1
    assert "Traceback" not in told
