"""Studies on a real Ray cluster of several nodes on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cl_ac.cli.main import main
from cl_ac.cli.run import command as start
from cl_ac.studies.local import Local
from cl_ac.studies.results import rows
from cl_ac.studies.runs import run_all
from cl_ac.studies.study import Study

ray = pytest.importorskip("ray", reason="studies on Ray need ray (pip install 'cl_ac[ray]')")
from ray.cluster_utils import Cluster  # noqa: E402

from cl_ac.studies import cluster as engine  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
PLUGIN = """
from cl_ac.approach import Approach
from cl_ac.losses import cross_entropy


class Mine(Approach):
    def loss(self, network, batch):
        return cross_entropy(network(batch.images), batch.targets, batch.task.classes)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster whose head makes no runs; tests add the nodes that they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "worker_niceness": 0}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
        made = Cluster(initialize_head=True, head_node_args=head)
        yield made
        made.shutdown()


@pytest.fixture
def add_node(nodes) -> Iterator[Callable[[], object]]:
    """Adds a node that has room for one run; it is gone after the test."""
    added = []

    def add() -> object:
        added.append(nodes.add_node(num_cpus=1))
        return added[-1]

    yield add
    for node in added:
        if node in nodes.worker_nodes:
            nodes.remove_node(node, allow_graceful=False)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def write_study(folder: Path, epochs: int, approach: str = "FineTuning", seeds: int = 3) -> str:
    """A study of some seeds in `folder`, by paths relative to it."""
    settings = {
        "approach": approach,
        "benchmark": {"class_path": "Digits", "init_args": {"tasks": 2, "samples_per_class": 8}},
        "backbone": {"class_path": "SmallConvNet", "init_args": {"width": 4}},
        "training": {"epochs": epochs, "schedule": "constant"},
        "device": "cpu",
        "loggers": [],
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    (folder / "study.yaml").write_text(f"config: settings.yaml\ngrid: {{seed: {list(range(seeds))}}}\n")
    return "study.yaml"


def table(path: Path) -> list[dict]:
    """The rows of a table, without times."""
    return [{**row, "seconds": None} for row in json.loads(path.read_text())["rows"]]


def local_table(study: str, out: Path) -> list[dict]:
    """The same from the local engine, with as many threads for each run: they decide in which order sums are made."""
    described = Study.read(study)
    finished = run_all(described, out, Local(os.cpu_count() or 1), Console(quiet=True), start)
    return [{**vars(row), "seconds": None} for row in rows(described, finished)]


def holders(out: Path) -> dict[str, str]:
    """Which process is or was at each run."""
    return {path.parent.name: path.read_text() for path in out.glob("*/lock")}


def kill_node_when(nodes: Cluster, node: object, is_time: Callable[[], bool]) -> threading.Thread:
    """Kills a node as soon as it is time."""

    def kill() -> None:
        while not is_time():
            time.sleep(0.02)
        nodes.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_runs_of_a_node_that_is_killed_go_on_elsewhere_and_the_table_is_the_local_one(nodes, add_node, work, capsys):
    add_node()
    doomed = add_node()
    study, out = write_study(work, epochs=40), work / "runs"
    began = {}

    def both_are_at_work() -> bool:
        for path in out.glob("*/checkpoint.pt"):
            began.setdefault(path.parent.name, (holders(out)[path.parent.name], provenance(out, path.parent.name)))
        return len(began) == 2

    killer = kill_node_when(nodes, doomed, both_are_at_work)
    words = ["study", study, "--out", "runs", "--engine", "ray", "--address", nodes.address]
    assert main([*words, "--results", "table.json"]) == 0
    killer.join()
    after = holders(out)
    moved = [name for name, (process, _) in began.items() if after[name] != process]
    assert len(moved) == 1
    # It went on: what is written when a run begins is of the first attempt.
    assert provenance(out, moved[0]) == began[moved[0]][1]
    assert table(work / "table.json") == local_table(study, work / "local")
    told = capsys.readouterr().err
    assert "at most 2 at a time, on Ray" in told
    assert "3/3" in told
    assert not list(out.glob(".*"))


def provenance(out: Path, name: str) -> str:
    return (out / name / "provenance.json").read_text()


def test_files_come_back_through_ray_where_the_folder_is_not_shared(nodes, add_node, work, tmp_path, monkeypatch):
    add_node()
    doomed = add_node()
    # The plugin and the settings reach workers in Ray's copy of the current folder, since the study's is outside it.
    (work / "mine.py").write_text(PLUGIN)
    study, out = write_study(work, epochs=40, approach="mine.Mine", seeds=2), tmp_path / "elsewhere"
    monkeypatch.setattr(engine, "mark", lambda folder: tmp_path / "seen by nobody")
    began = {}

    def both_came_back_once() -> bool:
        began.update({path.parent.name: provenance(out, path.parent.name) for path in out.glob("*/checkpoint.pt")})
        return len(began) == 2

    killer = kill_node_when(nodes, doomed, both_came_back_once)
    words = ["study", study, "--out", str(out), "--engine", "ray", "--address", nodes.address]
    assert main([*words, "--results", "table.json"]) == 0
    killer.join()
    assert {name: provenance(out, name) for name in began} == began
    monkeypatch.syspath_prepend(str(work))
    assert table(work / "table.json") == local_table(study, work / "local")


def test_a_study_whose_driver_is_killed_goes_on(nodes, add_node, work, capsys):
    add_node()
    study, out = write_study(work, epochs=40), work / "runs"
    words = ["study", study, "--out", "runs", "--engine", "ray", "--address", nodes.address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-m", "cl_ac", *words], env=environment, cwd=work) as driver:
        while not list(out.glob("*/checkpoint.pt")):
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    first = next(out.glob("*/checkpoint.pt")).parent.name
    before = provenance(out, first)
    assert main([*words, "--results", "table.json"]) == 0
    assert provenance(out, first) == before
    assert table(work / "table.json")[0]["seeds"] == 3


def test_a_run_that_no_node_has_room_for_is_refused(nodes, add_node, work, capsys):
    add_node()
    study = write_study(work, epochs=1)
    words = ["study", study, "--out", "runs", "--engine", "ray", "--address", nodes.address]
    assert main([*words, "--gpus_per_run", "0.5"]) == 2
    told = capsys.readouterr().err
    assert "no machine of the cluster has room for a run with 1 CPUs and 0.5 GPUs" in told
    assert not (work / "runs").exists()


def test_an_address_that_does_not_answer_is_told_soon(work, capsys):
    study = write_study(work, epochs=1)
    words = ["study", study, "--out", "runs", "--engine", "ray"]
    assert main([*words, "--address", "127.0.0.1:9"]) == 2
    assert "no Ray cluster answers at '127.0.0.1:9' (--address)" in capsys.readouterr().err
    assert main([*words, "--address", "here"]) == 2
    assert "expected host:port" in capsys.readouterr().err
    assert not (work / "runs").exists()


def write_search(folder: Path) -> str:
    """A search among three rates in `folder`, by paths relative to it."""
    write_study(folder, epochs=1)
    (folder / "search.yaml").write_text("config: settings.yaml\ngrid: {training.lr: [0.01, 0.05, 0.1], seed: [0, 1]}\n")
    return "search.yaml"


def test_workers_of_a_cluster_share_a_search(nodes, add_node, work):
    pytest.importorskip("optuna", reason="tuning needs optuna (pip install 'cl_ac[tune]')")
    add_node()
    add_node()
    options = [write_search(work), "--out", "runs", "--trials", "4", "--engine", "ray", "--address", nodes.address]
    assert main(["tune", *options]) == 0
    assert len(list((work / "runs").glob("trial_*/seed=*/checkpoint.pt"))) == 8
    by = {path.read_text() for path in (work / "runs").glob("*/claim")}
    assert len(by) >= 2
    assert not any(f"process {os.getpid()} " in each for each in by)
    assert (work / "runs" / "best.yaml").exists()
    assert not list((work / "runs").glob(".*.unfinished"))


def test_a_search_needs_a_folder_that_all_machines_see(nodes, add_node, work, tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="tuning needs optuna (pip install 'cl_ac[tune]')")
    add_node()
    monkeypatch.setattr(engine, "mark", lambda folder: tmp_path / "seen by nobody")
    options = [write_search(work), "--out", "runs", "--trials", "1", "--engine", "ray", "--address", nodes.address]
    assert main(["tune", *options]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"does not have the folder '{work / 'runs'}' (--out)" in told
