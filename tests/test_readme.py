"""What the README shows, run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cl_ac.recording.rundir import RunDirectory
from cl_ac.settings.parser import parse, run_parser

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def plugin() -> str:
    """The complete plugin that the README shows."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    return code


def commands() -> list[str]:
    """Every `cl-ac run` that the README shows."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("cl-ac run")]


def test_plugin_is_short():
    assert len([line for line in plugin().splitlines() if line.strip()]) <= 30


def test_plugin_runs_from_a_users_own_file(tmp_path):
    (tmp_path / "my_file.py").write_text(plugin())
    (command,) = [line for line in commands() if "my_file.MyApproach" in line]
    arguments = command.replace("scripts/", f"{ROOT}/scripts/").split()[1:]
    main = "import sys; from cl_ac.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", main, *arguments, "--training.epochs", "1", "--name", "mine"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    directory = RunDirectory(tmp_path / "runs" / "mine")
    assert len(directory.records) == 5
    assert directory.config["approach"]["init_args"]["strength"] == 0.5


@pytest.mark.parametrize("command", [line for line in commands() if "my_file" not in line])
def test_commands_parse(command):
    arguments = command.replace("scripts/", f"{ROOT}/scripts/").split()[2:]
    assert parse(run_parser(), arguments)


@pytest.mark.parametrize("path", sorted((ROOT / "scripts" / "benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_file_parses_for_every_approach_it_tunes(path):
    tuned = yaml.safe_load(path.read_text()).get("tuned", {})
    for approach in tuned:
        for exits in ([], ["--exits", "sdn"]):
            arguments = ["--config", str(path), "--approach", approach, *exits]
            assert parse(run_parser(), arguments)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
