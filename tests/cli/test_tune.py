import pytest

from cl_ac.cli import tune
from cl_ac.cli.main import main

SEARCH = (
    "config: scripts/benchmarks/digits_5x2.yaml\nset: {device: cpu}\ngrid: {approach.strength: {low: 0.1, high: 1}}\n"
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol", "first_tasks"], "needs --tasks"),
        (["--protocol", "first_tasks", "--tasks", "6"], "--tasks is 6; the benchmark has 5 tasks"),
        (["--tasks", "2"], "--tasks belongs to the protocol first_tasks"),
        (["--protocol", "continual"], "needs --strength"),
        (["--tolerance", "0.1"], "--tolerance belongs to the protocol continual"),
        (["--protocol", "continual", "--strength", "approach.strength", "--trials", "3"], "--trials is no option"),
        (["--trials", "0"], "--trials is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--protocol", "peek"], "protocol"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, capsys, options, words):
    (tmp_path / "search.yaml").write_text(SEARCH)
    assert main(["tune", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_optuna_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "search.yaml").write_text(SEARCH)
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    assert main(["tune", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'cl_ac[tune]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
