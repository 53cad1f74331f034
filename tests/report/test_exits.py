import json
import math

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cl_ac.cli.main import main
from cl_ac.cli.show import fitted
from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import Outputs, ac_accuracy
from cl_ac.exits.curves import accuracy_at_budgets, area, average_curve, cost_accuracy, task_curves
from cl_ac.exits.quality import quality
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.exits import (
    EVENTS_SUFFIX,
    analyse,
    figures,
    further_tables,
    main_tables,
    number,
    plain_accuracy,
    sentence_of_missing,
    write,
)


@pytest.fixture
def run_with(tmp_path, random_outputs):
    """Makes a run of two tasks whose stored outputs are random, and returns its folder and its last outputs."""

    def make(exits: int = 3, name: str = "run", sizes: tuple[int, ...] = (2, 3)) -> tuple[RunDirectory, Outputs]:
        directory = RunDirectory(tmp_path / name)
        directory.open({"seed": 0}, resume=False)
        for task in range(len(sizes)):
            outputs = random_outputs(task, exits, 60, sizes[: task + 1])
            directory.finish(Record.of(task, outputs, 1.0), outputs)
        return directory, outputs

    return make


def test_analysis_is_of_the_stored_outputs(run_with):
    directory, outputs = run_with()
    analysis = analyse(directory)
    mean, weighted = analysis.curves["confidence"], analysis.curves_weighted["confidence"]
    torch.testing.assert_close(mean.accuracy, average_curve(task_curves(outputs)).accuracy)
    torch.testing.assert_close(weighted.accuracy, average_curve(task_curves(outputs), (2, 3)).accuracy)
    assert not torch.equal(mean.accuracy, weighted.accuracy)
    known = analysis.curves_task_incremental["confidence"]
    assert known.accuracy[-1].item() == pytest.approx(ac_accuracy(outputs.task_incremental).mean().item())
    assert analysis.curves["confidence, grid of the AC paper"].thresholds.shape == (1001,)
    assert len(analysis.after_task) == 2
    torch.testing.assert_close(analysis.after_task[0].mean.accuracy, cost_accuracy(directory.outputs(0)).accuracy)
    after = analysis.after_task[1]
    last = outputs.select(outputs.tasks == 1)
    assert after.per_task[1].accuracy[0].item() == pytest.approx(last.correct[0].double().mean().item())
    torch.testing.assert_close(after.mean.accuracy, mean.accuracy)
    torch.testing.assert_close(after.weighted.accuracy, weighted.accuracy)
    assert list(analysis.quality) == ["all", "task_0", "task_1", "old", "new"]
    assert analysis.quality["new"] == quality(outputs.select(outputs.tasks == 1))


def test_tables_show_rules_tasks_exits_and_groups(run_with):
    analysis = analyse(run_with()[0])
    first, exits = main_tables(analysis)
    rules, weighted, known, after, after_weighted, tasks, oracle, groups = further_tables(analysis)
    assert first.row_count == 4
    assert rules.row_count == weighted.row_count == known.row_count == 6
    assert [table.row_count for table in (after, after_weighted, tasks, oracle)] == [2, 2, 3, 1]
    assert list(tasks.columns[0].cells) == [
        "after task 1, on task 1",
        "after task 2, on task 1",
        "after task 2, on task 2",
    ]
    assert [table.row_count for table in (exits, groups)] == [3, 5]
    assert list(exits.columns[0].cells) == ["exit 0", "exit 1", "final"]
    at_full_cost = next(iter(rules.columns[7].cells))
    expected = accuracy_at_budgets(analysis.curves["confidence"], [1.0])[0]
    assert at_full_cost == f"{100 * expected:.1f}"
    eefp = list(exits.columns[3].cells)
    assert eefp == [number(value) for value in analysis.quality["all"].eefp]
    assert eefp[-1] == "–"


def test_the_first_tables_fit_80_columns_in_one_piece_each_and_are_explained(run_with):
    console = Console(width=80)
    for table in main_tables(analyse(run_with()[0])):
        assert len(list(fitted(table, console))) == 1
        assert table.caption


def test_a_run_without_acs_has_one_exit_and_one_sentence(run_with, capsys):
    directory, outputs = run_with(exits=1)
    assert main(["exits", str(directory.path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "has no ACs" in line
    assert f"{100 * outputs.correct.double().mean():.1f} %" in line


def test_written_files(run_with):
    directory, _ = run_with()
    analysis = analyse(directory)
    for _ in range(2):
        paths = write(analysis, directory, plain=0.5)
    assert all(path.stat().st_size > 0 for path in paths)
    assert {path.suffix for path in paths} == {".png", ".json", ".safetensors"}
    written = json.loads((directory.path / "exits" / "exits.json").read_text())
    assert written["quality"]["all"]["eefp"][-1] is None
    assert written["rules"]["mean"]["margin"]["at"]["0.25"] is None  # the first exit costs more
    assert written["rules"]["mean"]["margin"]["best"] == analysis.curves["margin"].accuracy.max().item()
    first, second = written["after_task"]
    assert list(first) == ["task", "mean", "weighted", "task_0"]
    assert list(second) == ["task", "mean", "weighted", "task_0", "task_1"]
    assert second["weighted"]["area"] == area(analysis.curves_weighted["confidence"])
    points = load_file(directory.path / "exits" / "curves.safetensors")
    assert torch.equal(points["after_1.accuracy"][1], analysis.after_task[1].per_task[1].accuracy)
    assert points["after_1.shares"].shape[::2] == (2, 4)
    # Written twice, but there is one set of events.
    assert len(list(directory.path.glob(f"*{EVENTS_SUFFIX}"))) == 1
    events = EventAccumulator(str(next(directory.path.glob(f"*{EVENTS_SUFFIX}")))).Reload()
    assert [event.step for event in events.Scalars("exits/area/mean")] == [1, 2]
    assert [event.step for event in events.Scalars("exits/area/task_1")] == [2]
    at_all = events.Scalars("exits/accuracy_at_100_percent/weighted")[-1].value
    assert math.isclose(at_all, second["weighted"]["at"]["1"], rel_tol=1e-5)
    value = events.Scalars("exits/mean_eefp/all")[0].value
    assert math.isclose(value, analysis.quality["all"].mean_eefp, rel_tol=1e-5)
    assert "exits/reliability" in events.Tags()["images"]


def test_what_is_not_tested_is_null_and_draws_nothing(run_with):
    """A second task that brings known classes again has no test samples."""
    directory, _ = run_with(sizes=(2, 0, 3))
    analysis = analyse(directory)
    write(analysis, directory)
    text = (directory.path / "exits" / "exits.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert written["after_task"][2]["task_1"]["area"] is None
    assert written["after_task"][2]["mean"]["area"] == pytest.approx(area(analysis.curves["confidence"]))
    assert written["quality"]["task_1"]["accuracy"] == [None] * 3
    events = EventAccumulator(str(next(directory.path.glob(f"*{EVENTS_SUFFIX}")))).Reload()
    values = [event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)]
    assert values
    assert all(math.isfinite(value) for value in values)
    (axes,) = figures(analysis)["exit_accuracy"].axes
    mean = next(line for line in axes.lines if line.get_label() == "mean over tasks")
    assert mean.get_ydata().tolist() == pytest.approx((100 * directory.accuracies()[-1][[0, 2]].mean(0)).tolist())


def test_the_plain_line_is_that_of_a_run_without_acs(run_with):
    plain, outputs = run_with(exits=1, name="plain")
    assert plain_accuracy(plain) == pytest.approx(ac_accuracy(outputs).mean().item())
    lines = figures(analyse(run_with()[0]), plain=0.5)["cost_accuracy"].axes[0].lines
    assert "network without ACs" in [line.get_label() for line in lines]
    with pytest.raises(ConfigurationError, match="must be a finished run without ACs"):
        plain_accuracy(RunDirectory(plain.path.parent / "run"))


def test_a_run_without_results_is_one_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="holds no finished task"):
        analyse(RunDirectory(tmp_path))


def test_outputs_that_were_not_kept_are_left_out_and_told(run_with):
    directory, _ = run_with()
    assert sentence_of_missing(directory) == ""
    (directory.path / "outputs" / "task_0.safetensors").unlink()
    assert [each.task for each in analyse(directory).after_task] == [1]
    assert "after 1 of 2 tasks" in sentence_of_missing(directory)
