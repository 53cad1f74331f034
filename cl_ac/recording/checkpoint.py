"""Saving and loading the state of a run: whole files or nothing, tensors and plain values only."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from cl_ac.errors import ResumeError
from cl_ac.recording.files import damage_of_zip, save_state, write_atomically
from cl_ac.recording.frozen import FrozenWeights

VERSION = 1
# What `EpochReport.state` holds.
FIT = {"epoch", "steps", "best", "optimizer", "scaler"}


class Learner(Protocol):
    """What teaches a network, and takes over a state of its own: an approach, or a method of retrieval."""

    def restore(self, state: dict[str, Any], network: Any, /) -> None: ...


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
        frozen: weights that are left out of the file, since `frozen_path` holds them; none in files that are whole.
    """

    task: int = 0
    fit: dict[str, Any] | None = None
    steps: int = 0
    seconds: float = 0.0
    network: dict[str, Any] = field(default_factory=dict)
    approach: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    frozen: FrozenWeights = FrozenWeights()

    def save(self, path: Path) -> None:
        """Replaces the file at `path` in one step; the frozen weights must have been saved at `frozen_path` of it.

        Raises:
            StorageError: if the disk refuses it; the earlier checkpoint is whole.
        """
        content = {"version": VERSION, **vars(self)}
        del content["frozen"]
        if self.frozen.tensors:
            content, places = self.frozen.leave_out(content)
            content["frozen"] = {"digest": self.frozen.digest, "places": places}
        write_atomically(path, lambda file: save_state(content, file))

    def restore(
        self, network: nn.Module, learner: Learner, path: Path, what: str = "the network and the approach"
    ) -> None:
        """Puts a network and what teaches it into this state; a fresh one leaves them as they are.

        Args:
            path: what the state comes from.
            what: both, in words.
        Raises:
            ResumeError: if it is the state of others.
        """
        if not self.network:
            return
        try:
            network.load_state_dict(self.network)
            learner.restore(self.approach, network)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise ResumeError(
                f"'{path}' does not fit {what} of this run's settings: it belongs to another run, or their code has "
                "changed; remove it to start the run again"
            ) from error

    @staticmethod
    def load(path: Path) -> "Checkpoint":
        """Reads what `save` wrote; runs no code from the file.

        Raises:
            ResumeError: if the file, or that of the frozen weights that it needs, is damaged, to the last bit, or of
                another version.
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
        incomplete = ResumeError(f"'{path}' is no readable checkpoint: it is not complete; {way_out}")
        if (left_out := content.pop("frozen", None)) is not None:
            if not isinstance(left_out, dict) or set(left_out) != {"digest", "places"}:
                raise incomplete
            frozen = FrozenWeights.load(frozen_path(path), left_out["digest"])
            try:
                content = {**frozen.put_back(content, left_out["places"]), "frozen": frozen}
            except (KeyError, TypeError, AttributeError) as error:
                raise incomplete from error
        if not _is_state(content):
            raise incomplete
        return Checkpoint(**content)


def frozen_path(checkpoint: Path) -> Path:
    """Where the frozen weights of the checkpoint at that path are."""
    return checkpoint.with_name("frozen.pt")


def _is_state(content: dict[str, Any]) -> bool:
    """Whether the values of a file are those of a checkpoint."""
    if set(content) - {each.name for each in fields(Checkpoint)}:
        return False
    whole = Checkpoint(**content)
    numbers = isinstance(whole.task, int) and isinstance(whole.steps, int) and isinstance(whole.seconds, float | int)
    states = isinstance(whole.network, dict) and isinstance(whole.approach, dict) and isinstance(whole.run, str)
    fit = whole.fit is None or (isinstance(whole.fit, dict) and set(whole.fit) >= FIT)
    return numbers and states and fit and whole.task >= 0 and (whole.task == 0 or bool(whole.network))
