"""Memory that is left."""

import subprocess
import sys

import pytest
import torch

from cl_ac.data import available
from cl_ac.errors import DataError


def test_a_limit_on_the_address_space_counts():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34));"
        "from cl_ac.data.available import available_bytes; print(available_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2**34


def test_a_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(available, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert available.available_bytes() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert available.available_bytes() > 500


@pytest.mark.parametrize("fails", [lambda: torch.empty(2**55), lambda: bytearray(2**62)])
def test_memory_that_runs_out_is_one_sentence(fails):
    with pytest.raises(DataError, match=r"memory ran out.*benchmark\.in_memory"):
        available.told_when_memory_runs_out(fails)()


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="size"):
        available.told_when_memory_runs_out(lambda: torch.ones(2) + torch.ones(3))()
