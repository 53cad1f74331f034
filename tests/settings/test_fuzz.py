"""Mutated command lines and settings files: taken, or refused in one bounded, printable sentence."""

import random

import pytest
import yaml

from cl_ac.cli.main import LONGEST, printable
from cl_ac.errors import UserError
from cl_ac.settings.objects import build
from cl_ac.settings.parser import parse, run_parser

WORDS = [
    "", "null", "~", "none", "true", "0", "-1", "1.5", "1e-3", ".nan", "inf", "-.inf", "1e400", "9" * 30, "9" * 5000,
    "[", "]", "{", "}", "[[]]", "{}", "[1, null]", "{a: 1}", "{class_path: os.system}", "&a [*a]", "2024-01-01",
    "!!binary aGk=", "!!python/object:os.system x", "os.system", "cl_ac.cli.main", "LwF", "Digits", "a" * 300,
    "\x1b[31mred", "two\nlines", "\udcff", "…", "'", '"', "[" * 500, "-", "--", "=", "meta", "sdn",
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 1.5, 1e300, float("nan"), float("inf"), 10**30, 2**63, "", "x", "os.system", "\x1b[31m", "a\nb",
    [], {}, [None], [[1]], {"a": 1}, {None: 1}, {"class_path": "os.system"}, {"init_args": {}}, "a" * 5000,
]  # fmt: skip
LINES = [
    "--approach LwF --approach.strength 2 --approach.temperature 2 --exits sdn --seed 1",
    "--approach ER --memory.size 100 --exits.at [block0] --exits.weights [0.5] --exits.pool 2",
    "--approach EWC --training.epochs 2 --training.lr 0.1 --training.milestones [0.5] --training.schedule multistep",
    "--approach BiC --memory.per_class 2 --classifier NearestMean --classifier.temperature 1 --watch.every 5",
    "--approach FineTuning --benchmark.tasks 2 --benchmark.order [3,1] --benchmark.validation 0.1 --loggers [csv]",
    "--approach LwF --benchmark.augmentation.padding 1 --benchmark.samples_per_class 4 --backbone.width 8 --name n",
]
COMMON = "--benchmark Digits --backbone SmallConvNet"
FILE = {
    "approach": {"class_path": "LwF", "init_args": {"strength": 1.0, "distillation": "global"}},
    "benchmark": {"class_path": "Digits", "init_args": {"tasks": 5, "augmentation": {"padding": 1}}},
    "backbone": {"class_path": "SmallConvNet", "init_args": {"width": 8}},
    "exits": {"at": ["block0"], "weights": [0.5]},
    "training": {"epochs": 2, "lr": 0.1, "milestones": [0.5], "head_warmup": {"epochs": 1}},
    "memory": {"size": 0},
    "watch": {"every": 0},
    "sparsify": {"loss": "none"},
    "sparse": {"density": 0.5, "init": "own", "layers": "uniform"},
    "classifier": {"class_path": "Gaussian", "init_args": {"scale": "unit"}},
    "seed": 0,
    "out": "runs",
    "loggers": ["csv"],
    "resume": False,
    "tuned": {"LwF": {"approach": {"strength": 2}, "exits": {"training": {"lr": 0.2}}}},
}


def outcome(arguments):
    """The sentence that `arguments` are refused with, or None."""
    parser = run_parser()
    try:
        build(parser, parse(parser, arguments))
    except UserError as error:
        return str(error)
    except SystemExit:
        pass  # help and the like
    return None


def check(arguments):
    sentence = outcome(arguments)
    if sentence is not None:
        line = printable(sentence)
        assert line, arguments
        assert len(line) <= LONGEST
        assert "Traceback" not in line


@pytest.mark.parametrize("seed", range(6))
def test_command_lines(seed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(seed)
    for _ in range(20):
        arguments = f"{COMMON} {LINES[seed]}".split()
        for _ in range(draw.choice([1, 1, 2])):
            place, word = draw.randrange(len(arguments)), draw.choice(WORDS)
            match draw.randrange(5):
                case 0 | 1 | 2:
                    # Mostly the value of an option.
                    arguments[place | 1 if place | 1 < len(arguments) else place] = word
                case 3:
                    del arguments[place]
                case 4:
                    arguments.insert(place, word)
        check(arguments)
    assert not list(tmp_path.iterdir()), "settings alone leave nothing behind"


def spots(part, path=()):
    """The paths to all values in nested settings."""
    yield path
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        yield from spots(value, (*path, key))


@pytest.mark.parametrize("seed", range(6))
def test_files(seed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "settings.yaml"
    draw = random.Random(100 + seed)
    for _ in range(20):
        settings = yaml.safe_load(yaml.safe_dump(FILE))
        *trail, last = draw.choice([spot for spot in spots(settings) if spot])
        part = settings
        for key in trail:
            part = part[key]
        part[last] = draw.choice(VALUES)
        if isinstance(part, dict) and draw.random() < 0.1:
            part[draw.choice(["x", None, 1, "a" * 300, "\x1b"])] = 1
        path.write_text(yaml.dump(settings))
        check(["--config", str(path)])
    text = yaml.safe_dump(FILE)
    for _ in range(12):
        place, word = draw.randrange(len(text)), draw.choice(WORDS)
        end = place + draw.randrange(8)
        path.write_bytes((text[:place] + word + text[end:]).encode(errors="surrogateescape"))
        check(["--config", str(path)])
