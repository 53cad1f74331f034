"""Memory that is left."""

import subprocess
import sys

from cl_ac.data import available


def test_a_limit_on_the_address_space_counts():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        "from cl_ac.data.available import available_bytes; print(available_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2**31


def test_a_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(available, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert available.available_bytes() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert available.available_bytes() > 500
