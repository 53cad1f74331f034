"""What is kept beside the results of a run: points watched while it learned, drift, and sparsity."""

from pathlib import Path

from cl_ac.recording.files import reading, write_atomically
from cl_ac.sparse_training.record import SparseRecord
from cl_ac.watching.drift import Drift, Grams
from cl_ac.watching.stability import Watched


class Observations:
    """The folders `watch`, `drift` and `sparsity` of a run.

    Args:
        path: of the run's folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def keep_watched(self, watched: Watched) -> None:
        """Keeps the watched points of a task so far."""
        write_atomically(self._watched_path(watched.task), watched.save)

    def watched(self, task: int) -> Watched | None:
        """What was watched while `task` was learned; None where nothing was."""
        path = self._watched_path(task)
        with reading(path, "remove the folder watch/ to do without its curves"):
            return Watched.load(path) if path.exists() else None

    def watched_all(self) -> list[Watched]:
        """What was watched during each task of the run, in order; empty where nothing was."""
        found: list[Watched] = []
        while (watched := self.watched(len(found))) is not None:
            found.append(watched)
        return found

    def keep_drift(self, task: int, drift: Drift, grams: Grams) -> None:
        """Keeps what moved until the end of `task`, and of the Gram matrices those that a resumed run may need."""
        write_atomically(self.path / "drift" / f"task_{task}.safetensors", drift.save)
        write_atomically(self._grams_path(task), grams.save)
        self._grams_path(task - 2).unlink(missing_ok=True)

    def grams(self, task: int) -> Grams | None:
        """The Gram matrices after `task`; None before the first.

        Raises:
            DamagedRun: if they are missing or cannot be read.
        """
        if task < 0:
            return None
        with reading(self._grams_path(task), "drift cannot be measured any further; start the run again"):
            return Grams.load(self._grams_path(task))

    def drift_after(self, task: int) -> Drift | None:
        """What moved until the end of `task`; None where it was not measured.

        Raises:
            DamagedRun: if it cannot be read.
        """
        folder = self.path / "drift"
        with reading(folder, "remove the folder to do without it"):
            return Drift.load(folder / f"task_{task}.safetensors") if folder.exists() else None

    def keep_sparsity(self, task: int | None, record: SparseRecord) -> None:
        """Keeps what a sparse network is like after `task`, or at the start (None)."""
        write_atomically(self._sparsity_path(task), record.save)

    def sparsity(self, task: int | None = None) -> SparseRecord | None:
        """What a sparse network was like after `task`, or at the start; None where it was not sparse.

        Raises:
            DamagedRun: if it cannot be read.
        """
        path = self._sparsity_path(task)
        with reading(path, "remove the folder sparsity/ to do without it"):
            return SparseRecord.load(path) if path.exists() else None

    def _sparsity_path(self, task: int | None) -> Path:
        return self.path / "sparsity" / ("start.json" if task is None else f"task_{task}.json")

    def _watched_path(self, task: int) -> Path:
        return self.path / "watch" / f"task_{task}.safetensors"

    def _grams_path(self, task: int) -> Path:
        return self.path / "drift" / f"grams_{task}.safetensors"
