import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets Triton already")
def test_kernels_under_the_interpreter():
    """Triton chooses to compile or to interpret when a kernel is defined: this takes a process of its own."""
    pytest.importorskip("triton")
    folder = Path(__file__).parent
    child = subprocess.run(
        [sys.executable, "-m", "pytest", str(folder), "-k", "interpreter", "-p", "no:cacheprovider"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert " passed" in child.stdout
