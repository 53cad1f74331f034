"""Saving and loading the state of a run: whole files or nothing, tensors and plain values only."""

import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from cl_ac.errors import ResumeError
from cl_ac.recording.files import save_state, write_atomically

VERSION = 1
# What `EpochReport.state` holds.
FIT = {"epoch", "steps", "best", "optimizer", "scaler"}


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
        run: digest of the settings of the run that it belongs to; empty in files that do not say.
    """

    task: int = 0
    fit: dict[str, Any] | None = None
    steps: int = 0
    seconds: float = 0.0
    network: dict[str, Any] = field(default_factory=dict)
    approach: dict[str, Any] = field(default_factory=dict)
    run: str = ""

    def save(self, path: Path) -> None:
        """Replaces the file at `path` in one step.

        Raises:
            StorageError: if the disk refuses it; the earlier checkpoint is whole.
        """
        write_atomically(path, lambda file: save_state({"version": VERSION, **vars(self)}, file))

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Reads what `save` wrote; runs no code from the file.

        Raises:
            ResumeError: if the file is damaged, to the last bit, or of another version.
        """
        way_out = "the finished tasks in metrics.jsonl and outputs/ do not need it; remove it to start the run again"
        if damage := damage_of_zip(path):
            raise ResumeError(f"'{path}' is no readable checkpoint: {damage}; {way_out}")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content.pop("version")
        except Exception as error:
            told = f"'{path}' is no readable checkpoint: it holds something else than a run's state; {way_out}"
            raise ResumeError(told) from error
        if version != VERSION:
            raise ResumeError(f"'{path}' has version {version}; this program reads version {VERSION}")
        if not _is_state(content):
            raise ResumeError(f"'{path}' is no readable checkpoint: it is not complete; {way_out}")
        return Checkpoint(**content)


def damage_of_zip(path: Path) -> str | None:
    """What is wrong with a file that `torch.save` wrote, by the checksums in it; None if nothing is.

    PyTorch reads past these checksums: it takes a flipped bit for another weight.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception:
        return "it is cut short, or something else was written over it"
    return None if changed is None else f"the checksum of its part '{changed}' is wrong, so the file has changed"


def _is_state(content: dict[str, Any]) -> bool:
    """Whether the values of a file are those of a checkpoint."""
    if set(content) - {each.name for each in fields(Checkpoint)}:
        return False
    whole = Checkpoint(**content)
    numbers = isinstance(whole.task, int) and isinstance(whole.steps, int) and isinstance(whole.seconds, float | int)
    states = isinstance(whole.network, dict) and isinstance(whole.approach, dict) and isinstance(whole.run, str)
    fit = whole.fit is None or (isinstance(whole.fit, dict) and set(whole.fit) >= FIT)
    return numbers and states and fit and whole.task >= 0 and (whole.task == 0 or bool(whole.network))
