from contextlib import nullcontext

import pytest

from cl_ac.cli import engine, study
from cl_ac.cli.main import main

STUDY = "config: scripts/benchmarks/digits_5x2.yaml\ngrid: {seed: [0]}\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "slurm"], "slurm"),
        (["--address", "auto"], "--address belongs to --engine ray, but --engine is local"),
        (["--gpus_per_run", "0.5"], "--gpus_per_run belongs to --engine ray"),
        (
            ["--engine", "ray", "--gpus_per_run", "1.5"],
            "--gpus_per_run is 1.5; it must be at most 1, or a whole number",
        ),
        (["--engine", "ray", "--gpus_per_run", "-1"], "--gpus_per_run is -1"),
        (["--engine", "ray", "--cpus_per_run", "0"], "--cpus_per_run is 0"),
        (["--workers", "0"], "--workers is 0"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, capsys, options, words):
    (tmp_path / "study.yaml").write_text(STUDY)
    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_ray_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert "pip install 'cl_ac[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_ray_reach_it(tmp_path, monkeypatch):
    cluster = pytest.importorskip("cl_ac.studies.cluster", reason="studies on Ray need ray (pip install 'cl_ac[ray]')")
    (tmp_path / "study.yaml").write_text(STUDY)
    given = []
    monkeypatch.setattr(cluster, "cluster", lambda *options: given.append(options) or nullcontext("engine"))
    monkeypatch.setattr(study, "run_all", lambda *_: {})
    options = ["--engine", "ray", "--address", "auto", "--gpus_per_run", "0.25", "--cpus_per_run", "2"]
    assert main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), *options]) == 2
    assert given == [("auto", 2.0, 0.25, None)]
