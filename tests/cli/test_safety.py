import json
import subprocess
import sys
from pathlib import Path

import pytest

from cl_ac.cli.main import LONGEST, find_plugins_last, main, printable
from cl_ac.cli.run import say_other_version
from cl_ac.recording.rundir import RunDirectory

ROOT = Path(__file__).parents[2]


def test_the_current_folder_takes_no_modules_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/elsewhere"])
    find_plugins_last()
    assert sys.path == ["/elsewhere", str(tmp_path)]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cl_ac ")


@pytest.mark.parametrize("text", ["\x1b[31mred", "two\nlines", "\udcff", "x" * 100_000, "\u202eevil"])
def test_messages_are_one_bounded_printable_line(text):
    line = printable(f"name is '{text}'")
    assert line.isprintable()
    assert len(line) <= LONGEST


def test_a_closed_pipe_is_no_error():
    code = "import sys; from cl_ac.cli.main import main; sys.stdin.read(); sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""


def test_another_version_is_told_when_a_run_goes_on(tmp_path, capsys):
    path = tmp_path / "provenance.json"
    say_other_version(RunDirectory(tmp_path))
    path.write_text("damaged")
    say_other_version(RunDirectory(tmp_path))
    assert capsys.readouterr().err == ""
    path.write_text(json.dumps({"cl_ac": "0.0.1"}))
    say_other_version(RunDirectory(tmp_path))
    assert "begun by version 0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["n" * 300, "ä" * 200])
def test_names_longer_than_a_file_name_are_refused(name, tmp_path, capsys):
    plain = ["--approach", "LwF", "--benchmark", "Digits", "--backbone", "SmallConvNet", "--out", str(tmp_path)]
    assert main(["run", *plain, "--name", name]) == 2
    assert "names of folders have at most 255" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
