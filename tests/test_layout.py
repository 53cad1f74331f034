"""The wheel holds what the tree holds, in the right places."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import cl_ac

ROOT = Path(__file__).parent.parent
ROOMS = ("approaches", "datasets", "kernels")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel built from a copy of the sources."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("cl_ac", *ROOMS):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (path,) = (tree / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_source_file_inside_cl_ac(wheel):
    installed = {name for name in wheel.namelist() if name.endswith(".py")}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "cl_ac").rglob("*.py")}
    expected |= {f"cl_ac/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert installed == expected


def test_installed_wheel_imports_and_leaves_bare_names_alone(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = (
        "import importlib.util, cl_ac\n"
        "from cl_ac.settings.plugins import classes\n"
        "from cl_ac.approach import Approach\n"
        "from cl_ac.benchmark import Benchmark\n"
        "assert 'site' in cl_ac.__file__, cl_ac.__file__\n"
        "assert len(cl_ac.__path__) == 1, cl_ac.__path__\n"
        "assert {'LwF', 'ER'} <= set(classes('approach', Approach))\n"
        "assert 'Digits' in classes('benchmark', Benchmark)\n"
        "import cl_ac.kernels.sparse_ffn\n"
        "assert importlib.util.find_spec('approaches') is None\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize("path", sorted((ROOT / "approaches").glob("*.py")), ids=lambda path: path.stem)
def test_a_method_is_one_short_file(path):
    assert len(path.read_text().splitlines()) <= 150


def test_top_level_is_what_the_project_promises():
    documents = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "docs/README.md")
    for name in ("setup.cfg", "pyproject.toml", "cl_ac", *ROOMS, "scripts", "results", "tests", *documents):
        assert (ROOT / name).exists()
    for room in ROOMS:
        assert not (ROOT / room / "__init__.py").exists(), "would hide other people's packages of that name"


def test_every_place_that_names_the_version_names_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == newest[1] == cl_ac.__version__


@pytest.mark.parametrize("name", [".github/workflows/tests.yml", ".pre-commit-config.yaml"])
def test_automation_calls_scripts_that_exist(name):
    text = (ROOT / name).read_text()
    assert yaml.safe_load(text)
    called = re.findall(r"scripts/\w+\.sh", text)
    assert "scripts/lint.sh" in called
    assert all(os.access(ROOT / script, os.X_OK) for script in called)


def test_import_is_light():
    code = (
        "import sys, cl_ac.run\n"
        "heavy = {'avalanche', 'sklearn', 'matplotlib', 'torchvision', 'tensorflow', 'wandb'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
