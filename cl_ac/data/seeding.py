"""Random streams named by what they are for.

Every draw comes from a generator keyed by (seed, purpose, indices): nothing depends on what was drawn before,
so a resumed run needs no replay and a change in one place disturbs no other.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def key(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for the stream `purpose` (with `indices`, e.g. task and epoch) of the run with `seed`."""
    digest = hashlib.sha256(repr((seed, purpose, indices)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A fresh CPU generator for the stream; drawing on the CPU makes the numbers equal on every device."""
    return torch.Generator().manual_seed(key(seed, purpose, *indices))


@contextmanager
def global_stream(seed: int, purpose: str, *indices: int) -> Iterator[None]:
    """Runs code that can only draw from torch's global generator (module initialisation, dropout) on a keyed stream."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key(seed, purpose, *indices))
        yield
