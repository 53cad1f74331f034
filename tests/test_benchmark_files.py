"""The papers' settings files: which protocol they are, and that they hold the values that were published."""

import re
from pathlib import Path

import pytest
import yaml

from cl_ac.settings.parser import checker
from cl_ac.settings.presets import filled_in

FILES = sorted((Path(__file__).parent.parent / "scripts" / "benchmarks").glob("*.yaml"))
PAPERS = [path for path in FILES if path.stem.startswith(("cifar100", "imagenet100"))]

OPTIONS = {
    "ANCL": ("strength", "auxiliary_strength"),
    "BiC": ("strength",),
    "DERpp": ("strength", "replay_weight"),
    "LODE": ("intra_weight", "inter_weight"),
    "LwF": ("strength",),
    "SSIL": ("strength",),
}
# The AC paper's final runs, without ACs and with them, in the order of `OPTIONS`.
PUBLISHED = {
    "cifar100_5x20": "1 2 > 1 1 | 2 > 2 | .5 .5 > .5 1 | 1 .1 > 4 .5 | 1 > 1 | .25 > .25",
    "cifar100_10x10": "1 2 > 1 1 | 2 > 2 | .5 .5 > .5 1 | 1 .1 > 4 .5 | 1 > .5 | .25 > .25",
    "cifar100_20x5": "1 1 > 1 1 | 3 > 3 | .5 .5 > .25 .5 | 4 .1 > 4 .5 | .5 > .5 | .25 > .1",
    "cifar100_50x2": "1 1 > 1 1 | 3 > 3 | .5 .5 > .25 .5 | 4 .1 > 4 .5 | .5 > .5 | .25 > .1",
    "cifar100_50_5x10": "1 2 > 2 .1 | 3 > 3 | .5 .5 > .5 1 | 1 .5 > 4 .5 | .5 > 1 | .25 > .25",
    "cifar100_50_10x5": "1 1 > 2 .1 | 3 > 3 | .5 .5 > .5 1 | 1 .5 > 4 .5 | .5 > 1 | .25 > .25",
    "cifar100_5x20_wrn16": "1 2 > 1 1 | 2 > 2 | .5 .5 > .1 .5 | 1 .1 > 4 .5 | 1 > 1 | .25 > .25",
    "cifar100_10x10_wrn16": "1 2 > 1 1 | 2 > 2 | .5 .5 > .1 .5 | 1 .1 > 3 .5 | 1 > .5 | .25 > .25",
    "cifar100_5x20_vgg19": "1 1 > 1 1 | 3 > 3 | .5 .5 > .5 1 | 4 .1 > 4 .1 | 1 > 1 | .25 > .5",
    "cifar100_10x10_vgg19": "1 1 > 1 1 | 4 > 3 | .5 .5 > .5 1 | 4 .1 > 4 .1 | 1 > 1 | .25 > .5",
    "imagenet100_5x20": "1 1 > 1 2 | 3 > 2 | .5 .5 > .5 .5 | 1 .1 > 3 .5 | 1 > 1 | .25 > .25",
    "imagenet100_10x10": "1 1 > 1 2 | 3 > 2 | .5 .5 > .5 .5 | 1 .1 > 3 .5 | 1 > 1 | .25 > .25",
    "imagenet100_5x20_vitb16": ".5 .5 > .5 .5 | 2 > 2 | .5 .5 > .5 .5 | 3 .5 > 1 .1 | 1 > 1 | .25 > .25",
    "imagenet100_10x10_vitb16": ".5 .5 > .5 .5 | 2 > 2 | .5 .5 > .5 .5 | 3 .5 > 3 .5 | 1 > 1 | .25 > .25",
}


def settings(path: Path, approach: str, exits: str | None = None) -> dict:
    arguments = ["--approach", approach, *([] if exits is None else ["--exits", exits])]
    return yaml.safe_load(filled_in(str(path), arguments, checker()))


def options(path: Path, approach: str, exits: str | None = None) -> list[float]:
    given = settings(path, approach, exits)["approach"]["init_args"]
    return [given[name] for name in OPTIONS[approach]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_says_which_protocol_it_is(path):
    header = path.read_text().partition("\napproach:")[0]
    (protocol,) = re.findall(r"^# Protocol: (published|corrected|our own)[.;,]", header, re.MULTILINE)
    assert (protocol == "our own") == (path not in PAPERS)
    if path in PAPERS:
        assert re.search(r"^# Deviations from what was published:\n# - ", header, re.MULTILINE)


def test_there_is_a_file_for_each_published_benchmark():
    assert {path.stem for path in PAPERS} == set(PUBLISHED)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_values_are_the_published_ones(path):
    for approach, cell in zip(OPTIONS, PUBLISHED[path.stem].split("|"), strict=True):
        plain, with_acs = ([float(value) for value in part.split()] for part in cell.split(">"))
        assert options(path, approach) == plain, approach
        assert options(path, approach, "small" if "vgg19" in path.stem else "sdn") == with_acs, approach


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_protocol_is_the_published_one(path):
    plain = yaml.safe_load(path.read_text())
    assert plain["benchmark"]["init_args"]["validation"] == "test"
    size = plain["training"]["batch_size"]
    for approach in ("ER", "DERpp", "LODE"):
        training = settings(path, approach)["training"]
        assert (training["first_batch_size"], training["batch_size"]) == (size, size // 2), approach
    assert settings(path, "GDumb")["approach"]["init_args"] == {"reset": False, "joined": True}
    assert settings(path, "EWC")["approach"]["init_args"]["published_fisher"] is True
    for approach in ("ER", "DERpp", "LODE", "GDumb", "SSIL", "ICaRL"):
        memory = settings(path, approach)["memory"]
        assert memory in ({"size": 2000, "rounding": "up"}, {"per_class": 20})
    expected = 0.25 if path.stem == "cifar100_5x20" else 0.5
    assert settings(path, "ICaRL")["approach"]["init_args"] == {"strength": 0.5}
    assert settings(path, "ICaRL", "sdn")["approach"]["init_args"] == {"strength": expected}


def test_values_of_vgg19_follow_its_placements():
    five, ten = (path for name in ("5x20", "10x10") for path in FILES if path.stem == f"cifar100_{name}_vgg19")
    for exits, inter, bias, ssil in (
        ("small", [4, 0.1], 3, 0.5),
        ("medium", [3, 0.5], 4, 0.25),
        ("dense", [3, 0.5], 3, 0.25),
    ):
        assert options(five, "LODE", exits) == options(ten, "LODE", exits) == inter
        assert (options(five, "BiC", exits), options(ten, "BiC", exits)) == ([3], [bias])
        assert (options(five, "SSIL", exits), options(ten, "SSIL", exits)) == ([0.5], [ssil])
