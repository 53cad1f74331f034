"""Weights that never change, which a run writes once and not with each checkpoint."""

import hashlib
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cl_ac.errors import ResumeError
from cl_ac.recording.files import damage_of_zip, save_state, write_atomically

# Names of state, nested as the state is, with the name of the frozen weight that stands in each place.
Places: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class FrozenWeights:
    """The weights of frozen stages, from which a checkpoint leaves out whatever is the same.

    Args:
        tensors: by name, on the CPU.
        digest: of names and values; a checkpoint names the weights that it was written with by it.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    digest: str = ""

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> "FrozenWeights":
        """Copies of the values in `state`."""
        tensors = {name: value.detach().cpu().clone() for name, value in state.items()}
        return FrozenWeights(tensors, _digest(tensors))

    def save(self, path: Path) -> None:
        """Replaces the file at `path` in one step; without weights there is none.

        Raises:
            StorageError: if the disk refuses it.
        """
        if self.tensors:
            write_atomically(path, lambda file: save_state(dict(self.tensors), file))

    @staticmethod
    def load(path: Path, digest: str) -> "FrozenWeights":
        """Reads what `save` wrote; runs no code from the file.

        Raises:
            ResumeError: if it is missing, damaged to the last bit, or not what `digest` names.
        """
        if not path.exists():
            raise ResumeError(f"'{path}' is missing, {_NEEDED}")
        if damage := damage_of_zip(path):
            raise ResumeError(f"'{path}' is damaged ({damage}), {_NEEDED}")
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            found = _digest(tensors)
        except Exception as error:
            raise ResumeError(f"'{path}' holds no weights of frozen stages, {_NEEDED}") from error
        if found != digest:
            raise ResumeError(f"'{path}' holds the frozen weights of another run, {_NEEDED}")
        return FrozenWeights(tensors, digest)

    def leave_out(self, state: dict[str, Any]) -> tuple[dict[str, Any], Places]:
        """What of a nested state is none of these weights, and where they stood.

        Copies count too: those in a teacher, say, whose names end like those of the network's.
        """
        rest, places = copy(state), dict[str, Any]()
        for name, value in state.items():
            if isinstance(value, dict):
                rest[name], inside = self.leave_out(value)
                places |= {name: inside} if inside else {}
            elif isinstance(value, Tensor) and (same := self._same(name, value)):
                places[name] = same
                del rest[name]
        return rest, places

    def put_back(self, rest: dict[str, Any], places: Places) -> dict[str, Any]:
        """The state that `leave_out` parted."""
        state = copy(rest)
        for name, place in places.items():
            state[name] = self.tensors[place] if isinstance(place, str) else self.put_back(rest[name], place)
        return state

    def _same(self, name: str, value: Tensor) -> str | None:
        """Which of these weights stands at a place called `name`; None if it is none of them."""
        parts = str(name).split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        found = next((end for end in ends if end in self.tensors), None)
        if found is None or value.dtype != self.tensors[found].dtype:
            return None
        return found if torch.equal(value.detach().cpu(), self.tensors[found]) else None


_NEEDED = (
    "and the checkpoint beside it needs the frozen weights in it; the finished tasks in metrics.jsonl and outputs/ do "
    "not; bring it back, or remove checkpoint.pt to start the run again"
)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """What the weights are recognised by; empty of none."""
    if not tensors:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
