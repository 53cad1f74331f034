"""Whole runs: what they promise when stopped, and that they learn."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.training import Training

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "import sys; from cl_ac.cli.main import main; sys.exit(main())", "run"]
SETTINGS = [
    "--approach", "LwF", "--benchmark", "Digits", "--backbone", "SmallConvNet", "--exits", "sdn",
    "--memory.size", "40", "--training.epochs", "6", "--training.batch_size", "32", "--device", "cpu", "--seed", "5",
]  # fmt: skip


def start(out: Path, name: str, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [*COMMAND, *SETTINGS, "--out", str(out), "--name", name, *options]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def results(directory: RunDirectory) -> list[str]:
    return [json.dumps({**vars(record), "seconds": None}) for record in directory.records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDirectory:
    """A run that nobody stops."""
    out = tmp_path_factory.mktemp("whole")
    process = start(out, "run")
    assert process.wait(timeout=300) == 0, process.stderr.read().decode()
    return RunDirectory(out / "run")


def test_a_killed_run_resumes_bit_for_bit(whole, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    process = start(tmp_path, "run")
    kills = 0
    for finished_tasks in (1, 3):
        while len(directory.records) < finished_tasks and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += process.returncode == -signal.SIGKILL
        assert results(directory) == results(whole)[: len(directory.records)], "a finished task was lost"
        process = start(tmp_path, "run", "--resume")
    assert process.wait(timeout=300) == 0, process.stderr.read().decode()
    assert kills == 2
    assert results(directory) == results(whole)
    for task in range(5):
        assert torch.equal(directory.outputs(task).logits, whole.outputs(task).logits)
    expected, resumed = (Checkpoint.load(d.checkpoint_path) for d in (whole, directory))
    assert resumed.task == 5
    assert resumed.steps == expected.steps
    for name, value in expected.network.items():
        assert torch.equal(value, resumed.network[name]) if isinstance(value, torch.Tensor) else True, name


def test_resuming_a_finished_run_changes_nothing(whole):
    before = whole.metrics_path.read_text()
    process = start(whole.path.parent, "run", "--resume")
    assert process.wait(timeout=300) == 0
    assert whole.metrics_path.read_text() == before


def test_tensorboard_holds_the_accuracies_once(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole.path))
    events.Reload()
    tags = events.Tags()["scalars"]
    for tag in ("train/loss/exit_0", "train/loss/final", "accuracy/task_4/final", "accuracy/average/most_confident"):
        assert tag in tags
    first_task = [event.value for event in events.Scalars("accuracy/task_0/final")]
    assert first_task == pytest.approx([record.exits[0][-1] for record in whole.records])
    assert len(events.Scalars("train/learning_rate")) == 30
    assert "custom_scalars__config__" in events.Tags()["tensors"]


def test_a_damaged_checkpoint_is_one_sentence(whole, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.yaml").write_text((whole.path / "config.yaml").read_text())
    (directory / "checkpoint.pt").write_bytes(b"not a checkpoint")
    process = start(tmp_path, "run", "--resume")
    assert process.wait(timeout=300) == 2
    assert "is no readable checkpoint" in process.stderr.read().decode()


def test_selecting_by_test_images_or_by_nothing_is_refused_before_training(toy_run, toy_benchmark):
    best = Training(epochs=1, select="best", schedule="constant")
    with pytest.raises(
        ConfigurationError, match=r"benchmark\.validation is test: the test images would be selected by"
    ):
        toy_run(FineTuning(), training=best, benchmark=toy_benchmark(validation="test"))
    with pytest.raises(ConfigurationError, match="there is nothing to select by"):
        toy_run(FineTuning(), training=best, benchmark=toy_benchmark(validation=0))
    with pytest.raises(ConfigurationError, match="task 1 of 3 has no held-out images"):
        toy_run(FineTuning(), training=best, benchmark=toy_benchmark(per_class=1))


@pytest.mark.parametrize("part", [0, 1])
def test_a_task_without_images_is_refused_before_training(part, toy_run, toy_benchmark, monkeypatch):
    benchmark = toy_benchmark()
    loaded = list(benchmark.load())
    loaded[part] = loaded[part].select(loaded[part].targets < 4)
    monkeypatch.setattr(benchmark, "load", lambda: tuple(loaded))
    with pytest.raises(ConfigurationError, match=f"task 3 of 3 has no {('training', 'test')[part]} images"):
        toy_run(FineTuning(), benchmark=benchmark)


def test_answers_that_are_no_numbers_are_no_result(toy_run, monkeypatch, tmp_path):
    monkeypatch.setattr(FineTuning, "correct", lambda self, logits: logits * torch.nan)
    with pytest.raises(UserError, match=r"answers after task 1 are no numbers; lower training\.lr"):
        toy_run(FineTuning(), "run")
    assert not RunDirectory(tmp_path / "run").records
