"""The study files: every one of them starts."""

from pathlib import Path

import pytest

from cl_ac.settings.configured import as_arguments
from cl_ac.settings.parser import parse, run_parser
from cl_ac.studies.search import Search
from cl_ac.studies.study import Study

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "scripts" / "studies").glob("*.yaml"))
SEARCHES = [path for path in FILES if "_tune_" in path.stem]


@pytest.mark.parametrize("path", [path for path in FILES if path not in SEARCHES], ids=lambda path: path.stem)
def test_a_study_names_settings_that_there_are(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = Study.read(str(path))
    assert len(list(study.cells())) > 1
    study.check()


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_search_names_settings_that_there_are(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    search = Search.read(str(path))
    for chosen in search.probes:
        parse(run_parser(), as_arguments(search.options(chosen, search.seeds[0])))
