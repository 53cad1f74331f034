"""Imports point downwards only, and plugins are never named by the framework."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [path for room in ("cl_ac", "approaches", "datasets", "kernels") for path in (ROOT / room).rglob("*.py")]

# What a module may not import, by the start of its own name.
FORBIDDEN = {
    "approaches": (
        "cl_ac.run",
        "cl_ac.cli.main",
        "cl_ac.recording.journal",
        "cl_ac.recording.rundir",
        "cl_ac.recording.tensorboard",
        "cl_ac.report",
    ),
    "datasets": ("cl_ac.network", "cl_ac.approach", "cl_ac.training", "cl_ac.run", "cl_ac.data.batches"),
    "kernels": tuple(f"cl_ac.{name.stem}" for name in (ROOT / "cl_ac").glob("*.py") if name.stem != "__init__"),
    "cl_ac.losses": ("cl_ac.",),
    "cl_ac.data.augmentation": ("cl_ac.network", "cl_ac.training", "cl_ac.data.batches", "cl_ac.benchmark"),
    "cl_ac.benchmark": ("cl_ac.network", "cl_ac.training", "cl_ac.data.batches", "cl_ac.approach"),
    "cl_ac.network": ("cl_ac.training", "cl_ac.approach", "cl_ac.data.batches", "cl_ac.backbones"),
    "cl_ac.approach": ("cl_ac.run", "cl_ac.recording.journal", "cl_ac.evaluation"),
    "cl_ac.training": ("cl_ac.run", "cl_ac.recording.journal", "cl_ac.recording.rundir", "cl_ac.evaluation"),
    "cl_ac.evaluation": ("cl_ac.training", "cl_ac.run", "cl_ac.recording.rundir", "cl_ac.approach"),
    "cl_ac.watching.stability": ("cl_ac.",),
    "cl_ac.watching.watch": (
        "cl_ac.run",
        "cl_ac.recording.rundir",
        "cl_ac.recording.journal",
        "cl_ac.recording.tensorboard",
        "cl_ac.report",
    ),
    "cl_ac.watching.drift": (
        "cl_ac.run",
        "cl_ac.recording.rundir",
        "cl_ac.recording.journal",
        "cl_ac.recording.tensorboard",
        "cl_ac.report",
    ),
    "cl_ac.exits.rules": ("cl_ac.training", "cl_ac.run", "cl_ac.recording.rundir", "cl_ac.approach"),
    "cl_ac.exits.curves": ("cl_ac.training", "cl_ac.run", "cl_ac.recording.rundir", "cl_ac.approach"),
    "cl_ac.exits.quality": ("cl_ac.training", "cl_ac.run", "cl_ac.recording.rundir", "cl_ac.approach"),
    "cl_ac.exits.calibration": ("cl_ac.training", "cl_ac.run", "cl_ac.recording.rundir", "cl_ac.approach"),
    "cl_ac.exits.model": ("cl_ac.training", "cl_ac.run", "cl_ac.recording.rundir", "cl_ac.evaluation"),
    "cl_ac.efficiency": tuple(
        f"cl_ac.{name}" for name in ("run", "cli", "settings", "serving", "journal", "rundir", "report", "evaluation")
    ),
    "cl_ac.backbones.feed_forward": ("cl_ac.network", "cl_ac.training", "cl_ac.efficiency."),
    "cl_ac.efficiency.observation": ("cl_ac.",),
    "cl_ac.exits.folding": ("cl_ac.",),
    "cl_ac.classifiers.ensemble": (
        "cl_ac.run",
        "cl_ac.recording.rundir",
        "cl_ac.evaluation",
        "cl_ac.approach",
        "cl_ac.report",
    ),
    "cl_ac.serving.attach": ("cl_ac.cli.main", "cl_ac.report", "cl_ac.recording.journal"),
    "cl_ac.recording.loggers": (
        "cl_ac.run.",
        "cl_ac.recording.journal",
        "cl_ac.report",
        "cl_ac.recording.tensorboard",
        "cl_ac.training",
    ),
    "cl_ac.recording.tensorboard": (
        "cl_ac.recording.journal",
        "cl_ac.report.page",
        "cl_ac.report.sections",
        "cl_ac.report.exits",
    ),
    "cl_ac.report": ("cl_ac.recording.journal", "cl_ac.cli.main", "cl_ac.watching.watch"),
    "cl_ac.settings.parser": ("cl_ac.run", "cl_ac.report", "cl_ac.serving.finished", "cl_ac.cli.main."),
    "cl_ac.serving.finished": ("cl_ac.report",),
    "cl_ac.backbones": ("cl_ac.training", "cl_ac.approach", "cl_ac.data.batches", "cl_ac.run"),
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, at_run_time_only: bool = True) -> set[str]:
    """The modules that `path` imports; imports for annotations alone are left out."""
    tree = ast.parse(path.read_text())
    if at_run_time_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_downwards(path):
    name, names = module_name(path), imported(path)
    bare = {each for each in names if each.split(".")[0] in ("approaches", "datasets", "kernels")}
    assert not bare, "imported by the bare name of a room, which would make a second copy of its classes"
    assert not {each for each in names if each.startswith(".")}, "relative import"
    for start, forbidden in FORBIDDEN.items():
        if name == start or name.startswith(f"{start}."):
            allowed = ("cl_ac.kernels",) if start == "kernels" else ()
            wrong = {each for each in names if each.startswith(forbidden) and not each.startswith(allowed or "-")}
            assert not wrong


@pytest.mark.parametrize("path", [p for p in SOURCES if module_name(p).startswith("cl_ac")], ids=module_name)
def test_framework_names_no_plugin(path):
    rooms = ("cl_ac.approaches.", "cl_ac.datasets.")
    assert not {name for name in imported(path) if name.startswith(rooms)}


def test_no_cycles():
    graph = {f"{module_name(path)}": imported(path) for path in SOURCES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' → '.join([*trail, name])}"
        if name in done or name not in graph:
            return
        for other in graph[name]:
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())
