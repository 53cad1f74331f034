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
from cl_ac.approaches.pass_ import PASS
from cl_ac.approaches.xder_ce import XDERCE
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import exit_accuracy
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.training import Trainer, Training

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


def test_more_classes_than_the_approach_prepares_are_refused_before_training(toy_run, tmp_path):
    with pytest.raises(ConfigurationError, match=r"approach\.classes is 4, but the benchmark has 6: set it"):
        toy_run(XDERCE(classes=4), memory=12)
    assert not (tmp_path / "run").exists()


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


DIGITS = [
    "run", "--benchmark", "Digits", "--benchmark.samples_per_class", "4", "--benchmark.first_task", "2",
    "--training.epochs", "1", "--training.schedule", "constant", "--loggers", "[csv]", "--device", "cpu",
]  # fmt: skip
TINY = [*DIGITS, "--approach", "LwF", "--backbone", "SmallConvNet", "--backbone.width", "4"]


def test_settings_that_fail_at_the_first_step_block_nothing(tmp_path, capsys):
    name = ["--benchmark.tasks", "2", "--out", str(tmp_path), "--name", "run", "--memory.size", "20"]
    assert main([*DIGITS, "--approach", "PODNet", "--backbone", "ViT", *name]) == 2
    assert not list(tmp_path.iterdir())
    assert main([*TINY, *name]) == 0


def test_a_finished_run_goes_on_with_more_tasks(tmp_path, capsys):
    def learn(name: str, sizes: str, *options: str) -> int:
        given = "--benchmark.classes_per_task", sizes, "--out", str(tmp_path), "--name", name
        return main([*TINY, *given, "--keep_checkpoints", "true", *options])

    assert learn("short", "[2,2]") == 0
    whole = learn("whole", "[2,2,3]")
    assert learn("short", "[2,2,3]", "--resume") == whole == 0
    short, long = RunDirectory(tmp_path / "short"), RunDirectory(tmp_path / "whole")
    assert results(short) == results(long)
    assert torch.equal(short.outputs(2).logits, long.outputs(2).logits)
    assert [Checkpoint.load(short.path / "checkpoints" / f"task_{task}.pt").task for task in range(3)] == [1, 2, 3]
    assert learn("short", "[2,1,3]", "--resume") == 2
    assert "holds a run with other settings: benchmark.classes_per_task was" in capsys.readouterr().err


def test_other_data_are_refused_by_every_command(tmp_path, capsys, monkeypatch):
    name = ["--benchmark.tasks", "2", "--out", str(tmp_path), "--name", "run", "--exits", "sdn"]
    assert main([*TINY, *name]) == 0
    monkeypatch.setattr("cl_ac.datasets.digits.Digits.class_names", list("abcdefghij"), raising=False)
    for command in ([*TINY, *name, "--resume"], ["exits", str(tmp_path / "run"), "--measure"]):
        assert main(command) == 2
        assert "the data have changed since" in capsys.readouterr().err


def test_without_epochs_a_classifier_learns_and_nothing_else(toy_run, toy_backbone):
    training = Training(epochs=0)
    backbone = toy_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    options = {"backbone": backbone, "training": training}
    directory = toy_run(FineTuning(), "run", "sdn", classifier=NearestMean(), **options)
    assert [record.task for record in directory.records] == [0, 1, 2]
    assert exit_accuracy(directory.outputs(2))[:, -1].mean() > 0.4
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    listed = toy_run(FineTuning(), "listed", classifier=NearestMean(), training=Training(epochs=[1, 0, 0]))
    assert len(listed.records) == 3


def test_heads_that_would_never_learn_are_refused(toy_run):
    with pytest.raises(ConfigurationError, match=r"training.epochs is 0.* such as --classifier NearestMean"):
        toy_run(FineTuning(), "run", training=Training(epochs=0))


def test_new_rows_are_warmed_up_with_the_temperature_that_they_answer_with(toy_run, monkeypatch):
    given = []
    monkeypatch.setattr(Trainer, "warm_up_heads", lambda self, network, data, correct: given.append(correct))
    toy_run(PASS(temperature=0.1), training=Training(epochs=1, batch_size=8, schedule="constant"))
    assert all(torch.equal(correct(torch.ones(1)), torch.ones(1) / 0.1) for correct in given)
    assert len(given) == 3


def test_a_run_tells_how_far_it_is_after_each_epoch_and_task(toy_run):
    heard = []
    directory = toy_run(FineTuning(), on_progress=heard.append)
    told = [(each.finished, each.epoch, each.done) for each in heard]
    assert told == [(0, 1, 1), (0, 2, 2), (1, 0, 2), (1, 1, 3), (1, 2, 4), (2, 0, 4), (2, 1, 5), (2, 2, 6), (3, 0, 6)]
    assert {(each.tasks, each.total) for each in heard} == {(3, 6)}
    means = [sum(record.most_confident) / len(record.most_confident) for record in directory.records]
    assert [each.accuracy for each in heard] == [None] * 2 + [means[0]] * 3 + [means[1]] * 3 + [means[2]]


def test_what_listens_may_end_a_run_that_goes_on_later(toy_run):
    def end(standing):
        if standing.finished == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        toy_run(FineTuning(), "ended", on_progress=end)
    whole = toy_run(FineTuning(), "whole")
    ended = toy_run(FineTuning(), "ended", resume=True)
    assert [record.exits for record in ended.records] == [record.exits for record in whole.records]
