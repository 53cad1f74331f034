import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.errors import ResumeError
from cl_ac.simulation import experiment as module
from cl_ac.simulation.calorimeter import Calorimeter
from cl_ac.simulation.experiment import Cell, Experiment, run_all, trained
from cl_ac.simulation.expert_sim import Experts
from cl_ac.simulation.training import Adversarial

TINY = Experiment(
    experts=(1, 2),
    wide=True,
    calorimeter=Calorimeter(showers=60, repeats=2, height=5, width=4),
    model=Experts(noise=2, generator=(4, 4), discriminator=4, features=3),
    training=Adversarial(epochs=3, batch_size=16),
)
TINY_OPTIONS = [
    *("--calorimeter.showers", "60", "--calorimeter.repeats", "2", "--calorimeter.height", "5"),
    *("--calorimeter.width", "4", "--model.noise", "2", "--model.generator", "[4,4]", "--model.discriminator", "4"),
    *("--model.features", "3", "--training.epochs", "2"),
]


def quiet(name, done, total):
    pass


class Killed(Exception):
    """Stands for a kill between two epochs."""


def test_a_stopped_experiment_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_AFTER", 0.0)

    def stop(name, done, total):
        if name == "experts-2_seed-0" and done == 3:
            raise Killed

    whole = run_all(TINY, tmp_path / "whole", quiet)
    with pytest.raises(Killed):
        run_all(TINY, tmp_path / "stopped", stop)
    gone_on = []
    again = run_all(TINY, tmp_path / "stopped", lambda name, done, total: gone_on.append((name, done)))
    assert gone_on[0] == ("experts-2_seed-0", 3)
    for one, other in zip(whole, again, strict=True):
        first, second = asdict(one.measured), asdict(other.measured)
        timed = {"microseconds", "monte_carlo_microseconds", "seconds"}
        assert {name: value for name, value in first.items() if name not in timed} == {
            name: value for name, value in second.items() if name not in timed
        }
        assert one.history == other.history
    wide = trained(TINY, Cell(1, 2, 0), tmp_path / "whole")
    assert wide.generators[0].layers[0].out_features == 8


def test_usage_and_distances_add_up(tmp_path):
    measured = run_all(TINY, tmp_path, quiet)[1].measured
    assert sum(measured.usage) == pytest.approx(1)
    assert all(sum(row) == pytest.approx(1) for row in measured.usage_of_regimes if any(row))
    assert measured.distance == pytest.approx(sum(measured.channels) / 5)
    assert measured.microseconds > 0
    one = Experiment.cells(TINY)
    assert [cell.name for cell in one] == ["experts-1_seed-0", "experts-2_seed-0", "experts-1_wide-2_seed-0"]


def test_a_damaged_checkpoint_is_told(tmp_path):
    folder = tmp_path / "experts-1_seed-0"
    folder.mkdir()
    (folder / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(ResumeError, match="remove it to train the mixture again"):
        run_all(TINY, tmp_path, quiet)
    torch.save({"learner": {}}, folder / "checkpoint.pt")
    with pytest.raises(ResumeError, match="is of another mixture"):
        run_all(TINY, tmp_path, quiet)


def test_the_command_compares_mixtures_and_simulates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conditions.csv").write_text("charge,energy,row,column,mass\n0,2,2,2,1\n1,3.5,3,1,1\n")
    command = ["simulate", "--experts", "1", "2", *TINY_OPTIONS, "--out", "out", "--results", "numbers.json"]
    assert main([*command, "--conditions", "conditions.csv"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("Monte-Carlo again", "2 experts", "of narrow, %", "every other cell"):
        assert text in page
    rows = json.loads((tmp_path / "numbers.json").read_text())["rows"]
    assert [row["experts"] for row in rows] == [1, 2]
    showers = np.load(tmp_path / "out" / "showers.npz")
    assert showers["images"].shape == (2, 5, 4)
    assert showers["conditions"][:, 0].tolist() == [2, 3.5]
    capsys.readouterr()
    assert main([*command, "--model.noise", "3"]) == 2
    assert capsys.readouterr().err == (
        "cl-ac: model.noise is 3, but 'out' holds mixtures with 2; give the same, or another --out\n"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--experts", "0"], "experts is 0; it must be numbers of at least 1"),
        (["--experts", "2", "2"], "experts is 2, 2; no number may be there twice"),
        (["--seeds", "-1"], "seeds is -1; it must be numbers of at least 0"),
        (["--model.gate", "soft"], "model.gate"),
        (["--calorimeter.least_energy", "20"], "calorimeter.least_energy is 20 and calorimeter.most_energy 10; both"),
        (["--calorimeter.held_out", "0.00001"], "of which 1e-05 cannot be held out; take more"),
        (["--weights.diversity", "-1"], "weights.diversity is -1"),
        (["--training.epochs", "0"], "training.epochs is 0"),
        (["--conditions", "none.csv"], "conditions is 'none.csv', which is no CSV file that can be read"),
        (["--conditions", "far.csv"], "condition 1 has energy 99; it must be between 1 and 10"),
        (["--conditions", "short.csv"], "has no column mass, charge"),
        (["--conditions", "words.csv"], "holds something else than numbers"),
    ],
)
def test_mistakes_are_one_sentence(options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far.csv").write_text("energy,row,column,mass,charge\n99,8,5,0,0\n")
    (tmp_path / "short.csv").write_text("energy,row,column\n1,8,5\n")
    (tmp_path / "words.csv").write_text("energy,row,column,mass,charge\nhigh,8,5,0,0\n")
    assert main(["simulate", *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
