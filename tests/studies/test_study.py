import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.finished import finished
from cl_ac.studies.local import begin_worker, gpus_of_workers
from cl_ac.studies.study import Study

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


def test_runs_that_hold_samples_out_show_the_accuracy_on_them(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text(CONFIG.replace("epochs: 1", "epochs: 4"))
    (tmp_path / "study.yaml").write_text(
        f"config: {tmp_path}/settings.yaml\nset: {{device: cpu, approach: Joint, exits: sparse, benchmark.tasks: 2}}\n"
        "grid: {benchmark.validation: [0.0, 0.25]}\n"
    )
    results = tmp_path / "results.json"
    arguments = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"), "--results", str(results)]
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
    assert "1 runs failed" in printed.err
    assert "FineTuning" in printed.out


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


def test_a_worker_sees_the_gpu_that_it_was_given(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    context = get_context("spawn")
    gpus = context.SimpleQueue()
    gpus.put("1")
    with ProcessPoolExecutor(1, context, begin_worker, (1, gpus)) as pool:
        assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == "1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_workers_end_with_the_process_that_started_them():
    program = (
        "import os\n"
        "import time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from cl_ac.studies.local import begin_worker\n"
        "if __name__ == '__main__':\n"
        "    context = get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, begin_worker, (1, context.SimpleQueue()))\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
