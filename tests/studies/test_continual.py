import pytest
import torch
from rich.console import Console

from cl_ac.cli import engine
from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.studies import continual
from cl_ac.studies.blind import Sight
from cl_ac.studies.continual import Choice, Continual, choose, one_for_all
from cl_ac.studies.search import Range, Search

QUIET = Console(quiet=True)
SPACE = {"approach.strength": Range(1, 8), "training.lr": [0.001, 0.05]}


@pytest.fixture
def plan(guarded_settings, tmp_path) -> Continual:
    """A plan for two guarded tasks."""
    search = Search(str(guarded_settings(allowed=4)), SPACE, [0], {"training.epochs": 1})
    return Continual(search, Sight.of(search, 2), tmp_path / "tune", "approach.strength", 0.2)


def test_plasticity_comes_first_then_the_strength_is_halved_until_within_tolerance(plan, here, monkeypatch):
    accuracies = {
        # task, rate, strength: the better rate is found by fine-tuning
        (0, 0.001, 0.0): 0.5, (0, 0.05, 0.0): 0.9, (0, 0.05, 8.0): 0.9,
        (1, 0.001, 0.0): 1.0, (1, 0.05, 0.0): 0.6, (1, 0.001, 8.0): 0.3, (1, 0.001, 4.0): 0.7, (1, 0.001, 2.0): 0.8,
    }  # fmt: skip
    asked = []

    def learned(plan, task, before, chosen):
        key = (task, chosen["training.lr"], chosen["approach.strength"])
        asked.append((key, before and before["training.lr"]))
        return accuracies[key]

    monkeypatch.setattr(continual, "_learned", learned)
    choices = choose(plan, here, QUIET)
    assert [each.chosen for each in choices] == [
        {"training.lr": 0.05, "approach.strength": 8.0},
        {"training.lr": 0.001, "approach.strength": 2.0},
    ]
    assert [(each.plastic, each.accuracy, each.tried) for each in choices] == [(0.9, 0.9, 1), (1.0, 0.8, 3)]
    assert [before for (task, *_), before in asked] == [None] * 3 + [0.05] * 5


def test_each_task_goes_on_from_the_choice_for_the_one_before(plan, here):
    first, second = choose(plan, here, QUIET)
    before = Checkpoint.load(plan.folder(0, first.chosen, 0) / "checkpoint.pt")
    directory = RunDirectory(plan.folder(1, second.chosen, 0))
    assert before.task == 1
    records = directory.records
    assert records[0] == RunDirectory(plan.folder(0, first.chosen, 0)).records[0]
    assert second.accuracy == records[1].most_confident_task_incremental[1]
    assert directory.config["training"]["lr"] == second.chosen["training.lr"]
    written = {path: path.stat().st_mtime_ns for path in plan.out.rglob("metrics.jsonl")}
    # Again, it finds all runs done.
    assert choose(plan, here, QUIET) == [first, second]
    assert {path: path.stat().st_mtime_ns for path in plan.out.rglob("metrics.jsonl")} == written


def test_a_run_that_goes_on_with_the_same_settings_is_the_run_in_one_piece(plan, here):
    chosen = {"training.lr": 0.05, "approach.strength": 1.0}
    continual._learned(plan, 0, None, chosen)
    continual._learned(plan, 1, chosen, chosen)
    branched = RunDirectory(plan.folder(1, chosen, 0))
    whole = continual.run_blind(
        continual.prepared(plan.search.options(chosen, 0), plan.sight, plan.out / "whole" / "run")
    )
    ends = [Checkpoint.load(each.checkpoint_path).network for each in (branched, whole)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.as_tensor(ends[0][name] == ends[1][name]).all() for name in ends[0])


def test_settings_that_learn_nothing_end_the_search(plan, here, monkeypatch):
    def fails(*_):
        raise UserError("no")

    monkeypatch.setattr(continual, "_learned", fails)
    with pytest.raises(UserError, match="no settings of the search learn task 1"):
        choose(plan, here, QUIET)


def test_one_run_takes_the_lowest_strength_and_what_was_chosen_most_often(plan):
    rates = [(0.1, 8.0), (0.2, 2.0), (0.2, 4.0)]
    choices = [Choice({"training.lr": lr, "approach.strength": s}, 1, 1, 1) for lr, s in rates]
    assert one_for_all(plan, choices) == {"training.lr": 0.2, "approach.strength": 2.0}


@pytest.mark.parametrize(
    ("strength", "space", "tolerance", "words"),
    [
        ("training.lr", SPACE, 0.2, "--strength is 'training.lr'"),
        ("approach.strength", {**SPACE, "training.lr": Range(0.1, 1)}, 0.2, "training.lr is a range"),
        ("approach.strength", SPACE, 1.0, "--tolerance is 1.0"),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(tmp_path, strength, space, tolerance, words):
    with pytest.raises(ConfigurationError, match=words):
        Continual(Search("x", space, [0], {}), Sight(1, [2], True, None), tmp_path, strength, tolerance)


def test_a_stream_that_cannot_be_cut_is_refused_before_the_search(guarded_settings, tmp_path):
    options = {"stream": "RotatedImages", "memory.size": 12, "approach": "ER", "approach.strength": None}
    search = Search(str(guarded_settings()), {"training.momentum": Range(0.0, 0.9)}, [0], options)
    with pytest.raises(ConfigurationError, match=r"RotatedImages cannot leave later tasks out .* first 1 of 3"):
        Continual(search, Sight.of(search), tmp_path, "training.momentum", 0.2)


def test_a_setting_that_cannot_be_zero_is_no_strength(guarded_settings, tmp_path):
    search = Search(str(guarded_settings()), {"training.lr": Range(0.01, 0.1)}, [0], {})
    with pytest.raises(ConfigurationError, match=r"--strength is 'training.lr', which .* to 0 first, but .*lr is 0"):
        Continual(search, Sight.of(search), tmp_path, "training.lr", 0.2)


def test_the_command_writes_settings_for_a_run(guarded_settings, here, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engine, "Local", lambda workers, share_gpus: here)
    search = tmp_path / "search.yaml"
    search.write_text(
        f"config: {guarded_settings()}\nset: {{training.epochs: 1, benchmark.classes_per_task: [2, 2]}}\n"
        "grid: {approach.strength: {low: 1, high: 2}}\n"
    )
    words = ["tune", str(search), "--out", str(tmp_path / "out"), "--protocol", "continual"]
    assert main([*words, "--strength", "approach.strength"]) == 0
    assert "task by task" in capsys.readouterr().out
    assert "lowest strength" in (tmp_path / "out" / "best.yaml").read_text()
    assert (tmp_path / "out" / "report.html").exists()
