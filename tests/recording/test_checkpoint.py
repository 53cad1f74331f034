import pytest
import torch

from cl_ac.errors import ResumeError
from cl_ac.recording.checkpoint import Checkpoint, write_atomically


def test_everything_survives_saving(tmp_path):
    before = Checkpoint(2, {"epoch": 3, "best": None}, 40, 1.5, {"weight": torch.rand(2)}, {"sizes": [2, 2]})
    before.save(tmp_path / "checkpoint.pt")
    after = Checkpoint.load(tmp_path / "checkpoint.pt")
    assert torch.equal(before.network.pop("weight"), after.network.pop("weight"))
    assert vars(before) == vars(after)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(unfinished):
        unfinished.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"version": 1, "task": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ResumeError, match="no readable checkpoint"):
        Checkpoint.load(tmp_path / "checkpoint.pt")


def test_another_version_is_refused(tmp_path):
    torch.save({"version": 99}, tmp_path / "checkpoint.pt")
    with pytest.raises(ResumeError, match="version 99"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
