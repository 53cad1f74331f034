"""Builds and loads the emulated accelerator of emulated_device.cpp, which torch then knows as the device `emulated`."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import types
from pathlib import Path

import torch

SOURCE = Path(__file__).with_suffix(".cpp")


def compiler() -> str | None:
    """The C++ compiler of this machine, if any."""
    return shutil.which(os.environ.get("CXX", "c++"))


def build(directory: Path) -> Path:
    """The compiled library, made in `directory` unless it is there; only one process makes it."""
    directory.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = directory / f"emulated_device_{version}.so"
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            unfinished = library.with_suffix(".unfinished")
            root = Path(torch.__file__).parent
            options = [
                "-std=c++20",
                "-shared",
                "-fPIC",
                f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            ]
            headers = [f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include"]
            libraries = [f"-L{root}/lib", "-lc10", "-ltorch_cpu"]
            subprocess.run([compiler(), *options, *headers, str(SOURCE), *libraries, "-o", str(unfinished)], check=True)
            unfinished.rename(library)
    return library


class Module(types.ModuleType):
    """`torch.emulated`, what torch asks of an accelerator's module."""

    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    device = staticmethod(contextlib.nullcontext)
    synchronize = staticmethod(lambda device=None: None)
    # Its operations draw from the CPU's global generator.
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=None: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, device=None: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


def load(directory: Path) -> torch.device:
    """Registers the device with torch, once per process, and returns it."""
    if not hasattr(torch, "emulated"):
        torch.ops.load_library(build(directory))
        torch.utils.rename_privateuse1_backend("emulated")
        torch._register_device_module("emulated", Module("torch.emulated"))
        torch.utils.generate_methods_for_privateuse1_backend()
    return torch.device("emulated")
