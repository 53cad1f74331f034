import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cl_ac.studies.local import Local
from cl_ac.studies.workers import Worker, share_out


def call(place: int) -> Worker:
    return Worker(operator.call, 1)


def test_a_killed_worker_takes_only_its_own_piece_with_it():
    begun = []
    pieces = [(abs, -1), (os._exit, 9), (abs, -2), (abs, -3)]
    ended = list(share_out(pieces, call, 1, begun.append))
    assert ended == [(0, 1, False), (1, None, True), (2, 2, False), (3, 3, False)]
    assert begun == [0, 1, 1, 2, 3]


def test_interrupted_work_is_not_gone_on_with():
    workers = []

    def begin(index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt

    def make(place: int) -> Worker:
        workers.append(Worker(time.sleep, 1))
        return workers[-1]

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(share_out([(0,), (600,), (600,)], make, 2, begin))
    assert time.monotonic() - began < 60
    assert len(workers) == 2
    assert not any(worker.process.is_alive() for worker in workers)


def test_a_worker_does_not_hear_ctrl_c_and_sees_the_gpu_that_it_was_given(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pieces = [(signal.raise_signal, signal.SIGINT), (os.getenv, "CUDA_VISIBLE_DEVICES")]
    ended = list(share_out(pieces, lambda _: Worker(operator.call, 1, "1"), 1, lambda _: None))
    assert ended == [(0, None, False), (1, "1", False)]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_one_worker_takes_no_more_threads_than_this_process_may():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ((_, threads, killed),) = Local(1).do(torch.get_num_threads, [()], lambda index: None)
    finally:
        torch.set_num_threads(before)
    assert (threads, killed) == (1, False)


def test_workers_end_with_the_process_that_started_them():
    program = (
        "import operator\n"
        "import os\n"
        "import time\n"
        "from cl_ac.studies.workers import Worker, share_out\n"
        "if __name__ == '__main__':\n"
        "    pieces = [(os.getpid,), (time.sleep, 600)]\n"
        "    for _, result, _ in share_out(pieces, lambda _: Worker(operator.call, 1), 1, lambda _: None):\n"
        "        print(result, flush=True)\n"
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
