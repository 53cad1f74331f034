"""A number is kept with what made it, and with nothing of the machine's folders."""

from pathlib import Path

from cl_ac.recording.provenance import command


def test_a_command_names_no_folder_of_the_machine():
    below = str(Path.cwd() / "runs" / "d")
    given = [
        "/opt/lib/cl_ac/__main__.py",
        "study",
        "/elsewhere/digits.yaml",
        "--out",
        below,
        f"--results={below}",
        "a/b",
    ]
    assert command(given) == ["cl-ac", "study", "digits.yaml", "--out", "runs/d", "--results=runs/d", "a/b"]
    assert command(["/opt/bin/cl-ac", "run"]) == ["cl-ac", "run"]
