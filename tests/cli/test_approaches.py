"""What there is to choose from is told by the classes."""

import re
from pathlib import Path

import pytest

from cl_ac.cli.approaches import FAMILIES, by_family, citation, command, needs
from cl_ac.cli.main import main

APPROACHES = dict(by_family())
README = Path(__file__).parents[2] / "README.md"


def test_every_approach_is_listed_under_its_family(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command([])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    family = ""
    found = {}
    for line in lines:
        words = line.split()
        if line.strip() in FAMILIES:
            family = line.strip()
        elif words and words[0] in APPROACHES:
            found[words[0]] = (family, words[1])
    assert found == {name: (each.family, each.memory_use) for name, each in APPROACHES.items()}


def test_a_family_alone(capsys):
    assert main(["approaches", "replay"]) == 0
    printed = capsys.readouterr().out
    assert "DERpp" in printed
    assert "LwF" not in printed
    assert main(["approaches", "replays"]) == 2
    assert "no family" in capsys.readouterr().err
    assert main(["approaches", "--copes_with", "novelty"]) == 2
    assert capsys.readouterr().err == (
        "cl-ac: copes_with is 'novelty'; expected one of 'repeated classes', 'live memory', 'no boundaries' or null\n"
    )


def test_papers_and_needs_are_read_from_the_class():
    assert citation(APPROACHES["LwF"]) == "Li & Hoiem 2016"
    assert citation(APPROACHES["ER"]) == "Rolnick et al. 2019; Riemer et al. 2019"
    assert citation(APPROACHES["DyER"]) == "Yan, Xie & He 2021"
    assert needs(APPROACHES["LwF"]) == []
    assert needs(APPROACHES["L2P"]) == ["modules in the backbone", "a vision transformer"]
    assert needs(APPROACHES["HAT"]) == [
        "modules in the backbone",
        "parameters or rates of its own",
        "images of a known task",
    ]


@pytest.mark.parametrize("name", APPROACHES)
def test_every_approach_says_where_it_stands_and_whose_it_is(name):
    assert APPROACHES[name].family in FAMILIES
    assert APPROACHES[name].family != "own"
    assert citation(APPROACHES[name]) or APPROACHES[name].family == "baseline"


def test_the_readme_names_every_approach_in_its_family():
    rows = re.findall(r"^\| ([a-z ]+?)(?:s)?(?:: [^|]*)? \| (`.*) \|$", README.read_text(), re.M)
    listed = {name: family for family, names in rows for name in re.findall(r"`(\w+)`", names)}
    expected = {name: each.family.removesuffix("s") for name, each in APPROACHES.items()}
    assert {name: listed.get(name) for name in APPROACHES} == expected


def test_those_that_cope_with_a_stream(capsys):
    assert main(["approaches", "--copes_with", "live memory"]) == 0
    printed = capsys.readouterr().out.split()
    assert {name for name in APPROACHES if name in printed} == {
        name for name, each in APPROACHES.items() if "live memory" in each.copes_with
    }
    assert main(["approaches", "rebalancing", "--copes_with", "repeated classes"]) == 0
    printed = capsys.readouterr().out.split()
    assert "ICaRL" in printed
    assert "BiC" not in printed
