import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cl_ac.cli import main

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


def test_workers_end_with_the_process_that_started_them():
    program = (
        "import os\n"
        "import time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from cl_ac.study import begin_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), begin_worker, (1,))\n"
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
