"""Imports point downwards only, no file imports another in a circle, and plugins are never named by the framework."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGIN_ROOMS = ("approaches", "datasets", "kernels")
SOURCES = [path for room in ("cl_ac", *PLUGIN_ROOMS) for path in (ROOT / room).rglob("*.py")]

# The floors of the house, from the top: a file may import what stands on lower floors or in its own room.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("studies",),
    ("report",),
    ("serving", "moderation"),
    ("settings",),
    ("run", "retrieval", "simulation", "sound"),
    ("recording", "compatibility"),
    ("efficiency", "sparse_training", "approaches"),
    ("watching", "exits"),
    ("approach",),
    ("classifiers",),
    ("memory", "teacher", "importance", "tuning"),
    ("training", "backbones", "datasets", "generators"),
    ("network",),
    ("heads", "benchmark", "evaluation", "hypernetworks"),
    ("streams",),
    ("data", "processes"),
    ("errors", "losses", "kernels"),
    ("__init__",),
)
FLOOR = {room: -number for number, rooms in enumerate(FLOORS) for room in rooms}
# Rooms on one floor or below that have no business with each other all the same.
APART = {
    "approaches": ("evaluation.", "watching.", "exits.", "efficiency.", "sparse_training.", "recording."),
    "backbones": ("training.", "benchmark.", *(f"data.{name}." for name in ("samples", "loading", "batches", "tasks"))),
    "report": ("training.", "watching.watch."),
    "exits.rules": ("network.", "training."),
    "exits.curves": ("network.", "training."),
    "exits.quality": ("network.", "training."),
    "watching.stability": ("",),
}


def module_name(path: Path) -> str:
    """The name below `cl_ac`, such as `exits.rules` or `approaches.lwf`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "cl_ac" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def names_in(path: Path) -> set[str]:
    """Everything that `path` imports, type hints included, by full name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            names.update([start, *(f"{start}.{alias.name}" for alias in node.names)])
    return names


def modules_in(path: Path) -> set[str]:
    """The files of the project that `path` imports."""
    below = {name.removeprefix("cl_ac.") for name in names_in(path) if name.startswith("cl_ac.")}
    found = {each for name in below for each in (name, f"{name}.__init__") if each in MODULES}
    return found - {module_name(path)}


GRAPH: Mapping[str, set[str]] = {name: modules_in(path) for name, path in MODULES.items()}


def room(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", GRAPH)
def test_imports_point_downwards(name):
    wrong = {other for other in GRAPH[name] if room(other) != room(name) and FLOOR[room(other)] >= FLOOR[room(name)]}
    assert not wrong
    for start, others in APART.items():
        if name == start or name.startswith(f"{start}."):
            assert not {other for other in GRAPH[name] if any(f"{other}.".startswith(far) for far in others)}


def test_every_room_has_its_floor():
    assert {room(name) for name in GRAPH} == set(FLOOR)


def test_no_file_imports_another_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("name", GRAPH)
def test_one_class_has_one_name(name):
    imported = names_in(MODULES[name])
    bare = {each for each in imported if each.split(".")[0] in PLUGIN_ROOMS}
    assert not bare, "imported by the bare name of a room, which would make a second copy of its classes"
    assert not {each for each in imported if each.startswith(".")}, "relative import"


@pytest.mark.parametrize("name", [name for name in GRAPH if room(name) not in PLUGIN_ROOMS])
def test_framework_names_no_plugin(name):
    assert not {other for other in GRAPH[name] if room(other) in ("approaches", "datasets")}


def test_the_hall_is_small():
    names = {path.name for path in (ROOT / "cl_ac").iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert len(names) <= 35, sorted(names)
