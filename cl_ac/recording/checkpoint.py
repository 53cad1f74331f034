"""Saving and loading the state of a run: whole files or nothing, tensors and plain values only."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cl_ac.errors import ResumeError

VERSION = 1


@dataclass
class Checkpoint:
    """How far a run is.

    Args:
        task: the task being learned, or to be learned next.
        fit: `EpochReport.state` of the task being learned; None before its first epoch is done.
        steps: training steps of all finished tasks.
        seconds: training time of the unfinished task so far.
        network: state of the network.
        approach: state of the approach.
    """

    task: int = 0
    fit: dict[str, Any] | None = None
    steps: int = 0
    seconds: float = 0.0
    network: dict[str, Any] = field(default_factory=dict)
    approach: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Replaces the file at `path` in one step."""
        write_atomically(path, lambda file: torch.save({"version": VERSION, **vars(self)}, file))

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Reads what `save` wrote; runs no code from the file.

        Raises:
            ResumeError: if the file is damaged or of another version.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content.pop("version")
        except Exception as error:
            raise ResumeError(f"'{path}' is no readable checkpoint ({error}); remove it to start again") from error
        if version != VERSION:
            raise ResumeError(f"'{path}' has version {version}; this program reads version {VERSION}")
        return Checkpoint(**content)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a new file beside `path`, which then takes the place of `path` in one step."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    write(unfinished)
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)
