import os
from dataclasses import replace

import pytest
import torch

from cl_ac.errors import ConfigurationError, ResumeError, StorageError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.recording.fingerprint import TaskData
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.soundness import runs_in

SETTINGS = {"seed": 1, "training": {"epochs": 2, "workers": 4}, "device": "cpu"}


def outputs(tasks: int) -> Outputs:
    targets = torch.arange(2 * tasks).repeat(3)
    stream = torch.Generator().manual_seed(tasks)
    logits = torch.randn(2, len(targets), 2 * tasks, generator=stream)
    return Outputs(logits, targets, targets // 2, (2,) * tasks, ExitCosts([1.0, 3.0], 2.0))


def record(task: int) -> Record:
    return Record.of(task, outputs(task + 1), 1.0)


def test_finished_tasks_come_back(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open(SETTINGS, resume=False)
    for task in range(3):
        directory.finish(record(task), outputs(task + 1))
    assert directory.records == [record(task) for task in range(3)]
    assert torch.equal(directory.outputs(1).logits, outputs(2).logits)
    assert directory.accuracies().shape == (3, 3, 2)
    assert directory.ac_accuracies().isnan().sum() == 3


def test_finishing_a_task_again_replaces_it_and_what_came_after(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open(SETTINGS, resume=False)
    for task in (0, 1, 2, 1):
        directory.finish(record(task), outputs(task + 1))
    assert [each.task for each in directory.records] == [0, 1]


def test_resume_allows_another_device_but_no_other_seed(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open(SETTINGS, resume=False)
    directory.finish(record(0), outputs(1))
    directory.open({**SETTINGS, "device": "cuda", "training": {"epochs": 2, "workers": 0}}, resume=True)
    with pytest.raises(ResumeError, match="seed was 1 and is 2; give the former, or another --name or --out"):
        directory.open({**SETTINGS, "seed": 2}, resume=True)
    with pytest.raises(ConfigurationError, match="already holds a run"):
        directory.open(SETTINGS, resume=False)


def test_an_option_that_is_newer_than_the_run_must_have_its_default(tmp_path):
    directory = RunDirectory(tmp_path / "run", usual={"training.fixed_views": 0})
    checkpoint = directory.open(SETTINGS, resume=False)
    replace(checkpoint, task=1, network={"weight": torch.ones(1)}).save(directory.checkpoint_path)
    directory.finish(record(0), outputs(1))
    with pytest.raises(ResumeError, match=r"training\.fixed_views was 0 and is 4"):
        directory.open({**SETTINGS, "training": {**SETTINGS["training"], "fixed_views": 4}}, resume=True)
    assert directory.open({**SETTINGS, "training": {**SETTINGS["training"], "fixed_views": 0}}, resume=True).task == 1
    assert RunDirectory(directory.path).config["training"]["fixed_views"] == 0
    with pytest.raises(ResumeError, match=r"training\.unheard was null and is 1"):
        directory.open({**SETTINGS, "training": {**SETTINGS["training"], "unheard": 1}}, resume=True)


def test_a_run_goes_on_with_more_tasks_and_their_epochs_if_those_of_learned_ones_stay(tmp_path):
    def settings(tasks: int, epochs: int | list[int]) -> dict:
        return {"seed": 1, "benchmark": {"init_args": {"tasks": tasks}}, "training": {"epochs": epochs}}

    def data(tasks: int) -> list[TaskData]:
        return [TaskData([str(task)], [1, 8, 8], 4, 0, 2, "pixels") for task in range(tasks)]

    directory = RunDirectory(tmp_path / "run")
    checkpoint = directory.open(settings(2, [2, 3]), resume=False, data=data(2))
    replace(checkpoint, task=2, network={"weight": torch.ones(1)}).save(directory.checkpoint_path)
    for task in range(2):
        directory.finish(record(task), outputs(task + 1))
    with pytest.raises(ResumeError, match=r"training\.epochs was"):
        directory.open(settings(3, [2, 4, 5]), resume=True, data=data(3))
    assert directory.open(settings(3, [2, 3, 5]), resume=True, data=data(3)).task == 2
    assert RunDirectory(directory.path).config["training"]["epochs"] == [2, 3, 5]
    # As after a kill before the next checkpoint.
    assert directory.open(settings(3, [2, 3, 5]), resume=True, data=data(3)).task == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match=f"cannot write '{path}'"), RunDirectory(path).locked():
            pass


def test_a_second_process_is_kept_out_and_a_dead_one_holds_nothing(tmp_path):
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with first.locked():
        first.open(SETTINGS, resume=False)
        told = rf"another process is at work in '.*run' \(process {os.getpid()} on"
        with pytest.raises(ConfigurationError, match=told), second.locked():
            pass
        first.finish(record(0), outputs(1))
        (first.path / ".checkpoint.pt.1-2.unfinished").touch()
    with second.locked():
        assert not list(second.path.glob(".*"))


def fail(directory: RunDirectory, tasks: int) -> None:
    """A run that stops after so many tasks."""
    with directory.locked():
        directory.open(SETTINGS, resume=False)
        directory.folder("outputs")
        for task in range(tasks):
            directory.finish(record(task), outputs(task + 1))
        raise ZeroDivisionError


def test_what_fails_before_any_result_leaves_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for name in ("new", "mine"):
        with pytest.raises(ZeroDivisionError):
            fail(RunDirectory(tmp_path / name), tasks=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]
    with pytest.raises(ZeroDivisionError):
        fail(RunDirectory(tmp_path / "kept"), tasks=1)
    assert RunDirectory(tmp_path / "kept").records == [record(0)]


def test_settings_of_an_attempt_without_results_block_nothing(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open(SETTINGS, resume=False)
    directory.open({**SETTINGS, "seed": 2}, resume=False)
    assert directory.config["seed"] == 2


def test_runs_are_found_in_a_folder_of_runs(tmp_path):
    runs = [RunDirectory(tmp_path / name) for name in ("b", "a")]
    for run in runs:
        run.open(SETTINGS, resume=False)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").touch()
    (tmp_path / "nothing").mkdir()
    assert [run.path.name for run in runs_in(tmp_path)] == ["a", "b"]
    assert [run.path for run in runs_in(tmp_path / "b")] == [tmp_path / "b"]
    assert runs_in(tmp_path / "report") == []
    with pytest.raises(ConfigurationError, match="holds no run"):
        runs_in(tmp_path / "nothing")


def test_accuracy_rows_are_the_cube_without_what_is_not_yet_learned(stored_run, tmp_path):
    directory = stored_run(tmp_path / "run", exits=2, tasks=3)
    rows, cube = directory.accuracy_rows(), directory.accuracies()
    assert len(rows) == (1 + 2 + 3) * 2
    assert all(row["accuracy"] == cube[row["task_learned"], row["task"], row["exit"]] for row in rows)
    assert rows[2] == {"task_learned": 1, "task": 0, "exit": 0, "accuracy": cube[1, 0, 0].item()}
