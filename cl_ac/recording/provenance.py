"""What a number needs beside its settings to be understood later."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import cl_ac


def provenance() -> dict[str, Any]:
    """What a number needs beside its settings to be understood later."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        "cl_ac": cl_ac.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def command(arguments: Sequence[str]) -> list[str]:
    """The command line without folders of this machine: paths below the current folder, or the last name of others."""
    program, *rest = arguments
    name = "cl-ac" if Path(program).parent.name == "cl_ac" else Path(program).name
    return [name, *map(_shortened, rest)]


def _shortened(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    if not os.path.isabs(value):
        return argument
    path, here = Path(value), Path.cwd()
    return f"{option}{equals}{path.relative_to(here) if path.is_relative_to(here) else path.name}"


def cpu_name() -> str:
    """Vendor's name of the processor where Linux tells it, else its architecture."""
    details = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", details.read_text()) if details.exists() else None
    return named[1] if named else platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, `-modified` if it has changes; None when installed."""
    root = Path(cl_ac.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=-modified"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
