import pytest
import torch

from cl_ac.errors import ResumeError
from cl_ac.recording.checkpoint import Checkpoint


def test_everything_survives_saving(tmp_path):
    fit = {"epoch": 3, "steps": 12, "best": None, "optimizer": {}, "scaler": {}}
    before = Checkpoint(2, fit, 40, 1.5, {"weight": torch.rand(2)}, {"sizes": [2, 2]}, "digest")
    before.save(tmp_path / "checkpoint.pt")
    after = Checkpoint.load(tmp_path / "checkpoint.pt")
    assert torch.equal(before.network.pop("weight"), after.network.pop("weight"))
    assert vars(before) == vars(after)


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


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint on disk."""
    path = tmp_path / "checkpoint.pt"
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    Checkpoint(1, None, 10, 1.0, {"weight": weight}, {}).save(path)
    return path, weight


def test_a_flipped_bit_is_noticed(saved):
    path, weight = saved
    content = bytearray(path.read_bytes())
    content[bytes(content).index(weight.numpy().tobytes()) + 1003] ^= 0x40
    path.write_bytes(bytes(content))
    with pytest.raises(ResumeError, match=r"the checksum of its part '.*data/0' is wrong"):
        Checkpoint.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_checkpoint_is_told_in_plain_words(saved, share):
    path, _ = saved
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ResumeError, match="it is cut short, or something else was written over it; the finished tasks"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [
        {"version": 1, "task": 1, "netwerk": {}},
        {"version": 1, "task": "1", "network": {"a": 1}},
        {"version": 1, "task": 1, "fit": {"epoch": 1}, "network": {"a": 1}},
        {"version": 1, "task": 1},
    ],
)
def test_what_is_no_whole_state_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ResumeError, match="it is not complete"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
