import json
import threading
import time
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import yaml

from cl_ac.cli.main import main
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.fingerprint import TaskData, save
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.same_run import settings_digest
from cl_ac.serving.finished import finished
from cl_ac.studies import local
from cl_ac.studies.local import gpus_of_workers
from cl_ac.studies.runs import is_complete
from cl_ac.studies.study import Study, run_name
from cl_ac.studies.workers import Worker

CONFIG = "approach: FineTuning\nbenchmark: Digits\nbackbone: SmallConvNet\ntraining: {epochs: 1, batch_size: 64}\n"


def test_grid_runs_every_combination_and_averages_seeds(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text(CONFIG)
    (tmp_path / "study.yaml").write_text(
        f"config: {tmp_path}/settings.yaml\ngrid: {{exits: [null, sparse], seed: [0, 1]}}\nset: {{device: cpu}}\n"
    )
    results = tmp_path / "results.json"
    arguments = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"), "--results", str(results)]
    assert main(arguments) == 0
    content = json.loads(results.read_text())
    assert [(row["settings"]["exits"], row["seeds"]) for row in content["rows"]] == [(None, 2), ("sparse", 2)]
    records = [
        json.loads((tmp_path / "runs" / f"seed={seed}" / "metrics.jsonl").read_text().splitlines()[-1])
        for seed in (0, 1)
    ]
    finals = [sum(record["most_confident"]) / 5 for record in records]
    assert content["rows"][0]["accuracy"] == pytest.approx(sum(finals) / 2)
    assert content["rows"][0]["accuracy_std"] == pytest.approx(abs(finals[0] - finals[1]) / 2**0.5)


def test_finished_runs_of_a_version_without_some_options_are_kept(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text(CONFIG)
    (tmp_path / "study.yaml").write_text(
        f"config: {tmp_path}/settings.yaml\nset: {{device: cpu, benchmark.tasks: 2}}\ngrid: {{seed: [0]}}\n"
    )
    command = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]
    assert main(command) == 0
    run = RunDirectory(tmp_path / "runs" / "seed=0")
    old = yaml.safe_load(run.config_path.read_text())
    del old["sparsify"], old["training"]["fixed_views"]
    run.config_path.write_text(yaml.safe_dump(old))
    replace(Checkpoint.load(run.checkpoint_path), run=settings_digest(old)).save(run.checkpoint_path)
    lines = run.metrics_path.read_text()
    assert main(command) == 0
    assert run.metrics_path.read_text() == lines


def test_runs_that_hold_samples_out_show_the_accuracy_on_them(tmp_path, capsys, monkeypatch):
    (tmp_path / "settings.yaml").write_text(CONFIG.replace("epochs: 1", "epochs: 4"))
    (tmp_path / "study.yaml").write_text(
        f"config: {tmp_path}/settings.yaml\nset: {{device: cpu, approach: Joint, exits: sparse, benchmark.tasks: 2}}\n"
        "grid: {benchmark.validation: [0.0, 0.25]}\n"
    )
    results = tmp_path / "results.json"
    arguments = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"), "--results", str(results)]
    monkeypatch.setenv("COLUMNS", "200")
    assert main(arguments) == 0
    assert "held out" in capsys.readouterr().out
    without, held_out = (row["held_out"] for row in json.loads(results.read_text())["rows"])
    assert without is None
    # The samples that were held out, answered by hand.
    run = finished(RunDirectory(tmp_path / "runs" / "benchmark.validation=0.25"), "cpu")
    shares = []
    for task in run.objects.benchmark:
        images = run.objects.benchmark.augmentation.apply(task.validation.images[:])
        chances = run.network(images).softmax(-1).amax(0)
        shares.append((chances.argmax(-1) == task.validation.targets).double().mean())
    assert held_out == pytest.approx(torch.stack(shares).mean().item())
    assert held_out > 0.5


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text(CONFIG)
    (tmp_path / "study.yaml").write_text(f"config: {tmp_path}/settings.yaml\ngrid: {{approach: [ER, FineTuning]}}\n")
    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr()
    assert "ER needs exemplars" in printed.err
    assert "1 of the runs failed" in printed.err
    assert "FineTuning" in printed.out


def test_grids_that_overlap_name_each_run_once():
    study = Study(
        "settings.yaml", [{"approach": ["LwF"], "seed": [0, 0]}, {"approach": ["LwF", "ER"], "seed": [0]}], {}
    )
    assert list(study.cells()) == [{"approach": "LwF", "seed": 0}, {"approach": "ER", "seed": 0}]


def test_names_of_runs_fit_in_a_folder_and_differ():
    orders = [list(range(100)), list(range(99, -1, -1))]
    names = [run_name({"approach": "LwF", "benchmark.order": order}) for order in orders]
    assert all(len(name) == 255 and name.startswith("approach=LwF_benchmark.order=[") for name in names)
    long = "x" * 230
    assert len({*names, run_name({"a": long + "y" * 40}), run_name({"a": long + "z" * 40})}) == 4
    assert run_name({"a": long}) == f"a={long}"


@pytest.mark.parametrize(
    ("config", "grid", "words"),
    [
        ("settings.yaml", "{sed: [0, 1]}", "unknown option '--sed'; did you mean '--seed'?"),
        ("settings.yaml", "[{seed: [0]}, {approach: [LwG]}]", "unknown approach 'LwG'"),
        ("nowhere.yaml", "{seed: [0]}", "cannot read the settings file"),
    ],
)
def test_what_is_wrong_in_all_runs_is_told_before_any(tmp_path, capsys, config, grid, words):
    (tmp_path / "settings.yaml").write_text(CONFIG)
    (tmp_path / "study.yaml").write_text(f"config: {tmp_path}/{config}\ngrid: {grid}\n")
    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_no_study_is_one_sentence(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("grid: [1]\n")
    assert main(["study", str(tmp_path / "study.yaml")]) == 2
    assert "needs 'config'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workers", "count", "visible", "expected"),
    [
        (3, 2, None, ["0", "1", "0"]),
        (2, 2, "4,7", ["4", "7"]),
        (1, 4, "3,GPU-5a,1,0", ["3"]),
        (2, 1, "6", []),
        (2, 0, None, []),
    ],
)
def test_workers_share_the_gpus(workers, count, visible, expected):
    assert gpus_of_workers(workers, count, visible) == expected


@pytest.mark.parametrize(
    ("config", "shared", "grid", "expected"),
    [
        ("seed: 1\n", {}, {}, False),
        ("device: auto\n", {}, {}, False),
        ("device: cuda:1\n", {}, {}, True),
        ("device: cuda:1\n", {"device": "auto"}, {}, False),
        ("seed: 1\n", {"device": "cpu"}, {}, True),
        ("seed: 1\n", {}, {"device": ["cpu", "cuda"]}, True),
        ("seed: [\n", {}, {}, False),
    ],
)
def test_a_study_may_name_devices(tmp_path, config, shared, grid, expected):
    (tmp_path / "settings.yaml").write_text(config)
    study = Study(str(tmp_path / "settings.yaml"), [{"seed": [0], **grid}], shared)
    assert study.names_devices == expected


def test_a_killed_run_is_begun_again_and_the_table_is_whole(tmp_path, monkeypatch, capsys):
    (tmp_path / "settings.yaml").write_text(
        "approach: FineTuning\nbenchmark: {class_path: Digits, init_args: {tasks: 2, samples_per_class: 8}}\n"
        "backbone: SmallConvNet\ntraining: {epochs: 4, schedule: constant}\ndevice: cpu\n"
    )
    (tmp_path / "study.yaml").write_text(f"config: {tmp_path}/settings.yaml\ngrid: {{seed: [0, 1]}}\n")
    made = []

    class Watched(Worker):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self.process)

    def kill_the_first():
        while not (tmp_path / "runs" / "seed=0" / "config.yaml").exists():
            time.sleep(0.01)
        made[0].kill()

    monkeypatch.setattr(local, "Worker", Watched)
    killer = threading.Thread(target=kill_the_first)
    killer.start()
    arguments = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"), "--workers", "2"]
    assert main([*arguments, "--results", str(tmp_path / "table.json")]) == 0
    killer.join()
    assert len(made) == 3
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["seeds"] == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("2 runs in")
    assert "0 of them finished before" in told[0]
    assert sorted(line.split()[-1] for line in told if line.startswith("begins")) == ["seed=0", "seed=0", "seed=1"]
    assert all(is_complete(RunDirectory(tmp_path / "runs" / f"seed={seed}")) for seed in (0, 1))


def test_a_run_is_complete_after_all_the_tasks_of_its_data_whatever_its_settings_say(stored_run, tmp_path):
    run = stored_run(tmp_path / "run", {"seed": 0, "benchmark": {"class_path": "Digits", "init_args": {"tasks": 5}}})
    assert not is_complete(run)
    tasks = [TaskData(["0"], [1, 4, 4], 1, 0, 1, "")] * 3
    save(tasks, run.data_path)
    assert is_complete(run)
    save([*tasks, *tasks], run.data_path)
    assert not is_complete(run)
    run.data_path.write_text("[")
    assert run.tasks_in_all == 5


@pytest.mark.parametrize(("option", "told"), [("--results", "--results"), ("--out", "--out")])
def test_what_cannot_be_written_is_told_before_the_runs(tmp_path, capsys, monkeypatch, option, told):
    (tmp_path / "settings.yaml").write_text(CONFIG)
    (tmp_path / "study.yaml").write_text(f"config: {tmp_path}/settings.yaml\ngrid: {{seed: [0]}}\n")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(local, "share_out", lambda *_: pytest.fail("a run was begun"))
    places = {"--out": str(tmp_path / "runs"), option: str(tmp_path / "file" / "below")}
    assert main(["study", str(tmp_path / "study.yaml"), *(text for pair in places.items() for text in pair)]) == 2
    assert f"({told})" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "hint"), [("study", "repeat the command to go on"), ("run", "--resume")])
def test_the_message_after_ctrl_c_names_what_the_command_has(monkeypatch, capsys, command, hint):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(f"cl_ac.cli.{command}"), "command", interrupted)
    assert main([command]) == 130
    message = capsys.readouterr().err
    assert hint in message
    assert ("--resume" in message) == (command == "run")
