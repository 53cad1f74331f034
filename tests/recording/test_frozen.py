import shutil

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.errors import ResumeError
from cl_ac.recording.checkpoint import Checkpoint, frozen_path
from cl_ac.recording.frozen import FrozenWeights
from cl_ac.recording.rundir import RunDirectory

RUN = [
    "run", "--approach", "LwF", "--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "4",
    "--backbone", "SmallConvNet", "--backbone.width", "8", "--backbone.frozen", "block1", "--training.epochs", "2",
    "--training.schedule", "constant", "--loggers", "[]", "--device", "cpu", "--name", "run", "--exits", "sdn",
    "--benchmark.validation", "0.3", "--training.select", "best",
]  # fmt: skip


@pytest.fixture
def weights() -> FrozenWeights:
    return FrozenWeights.of({"stage.weight": torch.rand(1000), "stage.count": torch.tensor(3)})


def test_the_same_weights_are_left_out_wherever_they_stand(weights):
    changed = weights.tensors["stage.weight"] + 1
    state = {
        "network": {"stage.weight": weights.tensors["stage.weight"].clone(), "head": torch.ones(2), "sizes": [2]},
        "approach": {"teacher.stage.weight": weights.tensors["stage.weight"].clone(), "stage.count": torch.tensor(4)},
        "fit": {"best": {"network": {"stage.weight": changed}}, "steps": 3},
    }
    rest, places = weights.leave_out(state)
    assert places == {"network": {"stage.weight": "stage.weight"}, "approach": {"teacher.stage.weight": "stage.weight"}}
    assert set(rest["network"]) == {"head", "sizes"}
    assert torch.equal(rest["fit"]["best"]["network"]["stage.weight"], changed)
    whole = weights.put_back(rest, places)
    assert torch.equal(whole["approach"]["teacher.stage.weight"], weights.tensors["stage.weight"])
    assert whole["approach"]["stage.count"] == 4
    assert set(whole["network"]) == set(state["network"])
    assert len(state["network"]) == 3, "the state itself stays whole"


def test_a_checkpoint_with_frozen_weights_comes_back_whole_and_is_small(tmp_path, weights):
    path = tmp_path / "checkpoint.pt"
    weights.save(frozen_path(path))
    Checkpoint(1, None, 10, 1.0, dict(weights.tensors), {}, "digest", weights).save(path)
    assert path.stat().st_size < frozen_path(path).stat().st_size / 2
    loaded = Checkpoint.load(path)
    assert torch.equal(loaded.network["stage.weight"], weights.tensors["stage.weight"])
    assert loaded.frozen.digest == weights.digest


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: path.unlink(), "frozen.pt' is missing, and the checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), r"is damaged \(it is cut short"),
        (lambda path: torch.save([1], path), "holds no weights of frozen stages"),
        (lambda path: FrozenWeights.of({"other": torch.ones(1)}).save(path), "holds the frozen weights of another run"),
    ],
)
def test_damage_is_one_sentence(tmp_path, weights, harm, told):
    path = tmp_path / "checkpoint.pt"
    weights.save(frozen_path(path))
    Checkpoint(1, None, 10, 1.0, dict(weights.tensors), {}, "digest", weights).save(path)
    harm(frozen_path(path))
    with pytest.raises(ResumeError, match=told) as error:
        Checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_noticed(tmp_path, weights):
    path = tmp_path / "frozen.pt"
    weights.save(path)
    content = bytearray(path.read_bytes())
    content[bytes(content).index(weights.tensors["stage.weight"].numpy().tobytes()) + 1003] ^= 0x40
    path.write_bytes(bytes(content))
    with pytest.raises(ResumeError, match="checksum of its part"):
        FrozenWeights.load(path, weights.digest)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished run whose first stages are frozen."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*RUN, "--out", str(out), "--keep_checkpoints", "true"]) == 0
    return out / "run"


def test_a_run_writes_frozen_weights_once(whole, tmp_path, monkeypatch):
    written = []
    save = FrozenWeights.save
    monkeypatch.setattr(FrozenWeights, "save", lambda self, path: (written.append(path), save(self, path)))
    assert main([*RUN, "--out", str(tmp_path)]) == 0
    assert written == [tmp_path / "run" / "frozen.pt"]
    # Those of the network, and the teacher's copies of them.
    content = torch.load(whole / "checkpoint.pt", weights_only=True)
    names = set(torch.load(whole / "frozen.pt", weights_only=True))
    assert any("stages.1" in name for name in names)
    left = [name for part in ("network", "approach") for name in content[part] if name.endswith(tuple(names))]
    assert left == []


def test_a_run_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    save, saved = Checkpoint.save, []

    def killed(self, path):
        save(self, path)
        saved.append(self)
        if len(saved) == 4:  # in the middle of the second task, with a teacher and a best epoch
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", killed)
        with pytest.raises(Killed):
            main([*RUN, "--out", str(tmp_path)])
    assert saved[-1].fit is not None
    assert main([*RUN, "--out", str(tmp_path), "--resume"]) == 0
    assert torch.equal(RunDirectory(tmp_path / "run").outputs(1).logits, RunDirectory(whole).outputs(1).logits)
    expected, resumed = (Checkpoint.load(run / "checkpoint.pt") for run in (whole, tmp_path / "run"))
    assert all(
        torch.equal(value, resumed.network[name]) for name, value in expected.network.items() if "_extra" not in name
    )


def test_a_kept_checkpoint_is_whole_in_itself(whole, tmp_path):
    shutil.copy(whole / "checkpoints" / "task_1.pt", tmp_path)
    alone, newest = Checkpoint.load(tmp_path / "task_1.pt"), Checkpoint.load(whole / "checkpoint.pt")
    assert set(alone.network) == set(newest.network)


def test_a_run_without_its_frozen_weights_is_one_sentence(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "frozen.pt").unlink()
    for command in ([*RUN, "--out", str(tmp_path), "--resume"], ["exits", str(run), "--measure"]):
        assert main(command) == 2
        assert "frozen.pt' is missing" in capsys.readouterr().err
    (run / "checkpoint.pt").unlink()
    assert main([*RUN, "--out", str(tmp_path), "--resume"]) == 0
    assert Checkpoint.load(run / "checkpoint.pt").network
