import math
from dataclasses import replace

import pytest
import torch

from cl_ac.evaluation import ExitCosts
from cl_ac.exits.curves import cost_accuracy, cost_at_accuracy
from cl_ac.recording.summary import summarise
from cl_ac.report.comparison import compare
from cl_ac.report.run_tables import drift_table, exit_accuracies, gaps, known_task, stream_table, summary, task_costs
from cl_ac.report.sections import sections
from cl_ac.watching.drift import Drift, Grams
from cl_ac.watching.stability import accuracy_area
from cl_ac.watching.stability import summarise as summarise_watched


def test_summary_is_over_seeds(make_comparison):
    comparison = make_comparison("LwF")
    plain, with_acs = summary(comparison).rows
    runs = comparison.groups[1].runs
    assert with_acs[:3] == ["LwF + sdn", 2, 3]
    assert with_acs[3].values == tuple(summarise(run).accuracy for run in runs)
    assert with_acs[6].values == tuple(summarise(run).forgetting for run in runs)
    assert plain[-1] == ""
    reference = comparison.groups[0].all_samples.mean().item()
    reached = [cost_at_accuracy(cost_accuracy(run.outputs(2)), reference) for run in runs]
    assert None not in reached
    assert with_acs[-1].values == tuple(reached)


def test_the_cost_after_each_task_is_told_as_far_as_it_is_known(make_comparison):
    comparison = make_comparison("LwF")
    first = comparison.groups[1].runs[0]
    outputs = first.outputs(1)
    replace(outputs, cost=ExitCosts([1e6, 3e6, 5e6], 4e6, 7_000_000)).save(first.outputs_path(1))
    first.outputs_path(2).unlink()
    table = task_costs(comparison)
    assert table.columns == ["run", "of", "task 1", "task 2", "task 3"]
    assert table.rows == [
        ["LwF", "MACs", *[10 / 1e6] * 3],
        ["LwF + sdn", "MACs", 30 / 1e6, 5.0, ""],
        ["LwF + sdn", "parameters", "", 7.0, ""],
    ]


def test_gaps_are_those_of_the_watched_points(make_comparison):
    comparison = make_comparison("LwF", watch=True)
    rows = {(row[0], row[1]): row[2:] for row in gaps(comparison.groups).rows}
    expected = [summarise_watched(run.watched_all()) for run in comparison.groups[1].runs]
    place = expected[0].answers.index("nearest_mean/exit_1")
    cells = rows["LwF + sdn", "nearest mean, exit 1"]
    assert cells[0].values == tuple(each.gap[place].item() for each in expected)
    assert cells[-2].values == tuple(each.settling_steps[place].item() for each in expected)
    areas = [accuracy_area(run.watched_all(), [2, 3, 1]) for run in comparison.groups[1].runs]
    assert cells[-1].values == tuple(area[place].item() for area in areas)
    assert not cells[-2].percent


def test_a_known_task_is_told_per_task_and_exit(make_comparison):
    comparison = make_comparison("LwF")
    table = known_task(comparison)
    assert table.columns == ["run", "task 1", "task 2", "task 3", "mean", "exit 0", "exit 1", "final"]
    plain, with_acs = table.rows
    assert plain[5:7] == ["", ""], "final exits are below each other"
    known = [run.records[-1] for run in comparison.groups[1].runs]
    assert with_acs[2].values == tuple(each.most_confident_task_incremental[1] for each in known)
    finals = [sum(row[-1] for row in each.exits_task_incremental) / 3 for each in known]
    assert with_acs[-1].values == pytest.approx(finals)
    assert with_acs[4].values == pytest.approx([sum(each.most_confident_task_incremental) / 3 for each in known])


def test_what_streams_are_asked_for_is_told_where_it_means_something(stored_run, tmp_path):
    plain = stored_run(tmp_path / "plain", {"seed": 0, "approach": {"class_path": "ER"}})
    streamed = stored_run(tmp_path / "streamed", {"seed": 0, "approach": {"class_path": "LwF"}})
    (comparison,), _ = compare([plain])
    assert stream_table(comparison) is None
    for record in streamed.records:
        told = {"next_task": [0.2, 0.3, 0.5], "next_task_untrained": [0.1, 0.1, 0.25]} if record.task < 2 else {}
        told |= {"thirds": [[0.5, 0.5, 0.9], [0.5, 0.5, 0.8], [0.5, 0.5, 0.7]]}
        streamed.finish(replace(record, **told), streamed.outputs(record.task))
    (comparison,), _ = compare([plain, streamed])
    table = stream_table(comparison)
    assert table.columns == ["run", "forward transfer", "head", "medium", "tail"]
    first, second = table.rows
    assert first[1:] == [""] * 4
    assert [cell.values for cell in second[1:]] == [(0.25,), (0.9,), (0.8,), (0.7,)]
    assert "Stream" in [section.title for section in sections(comparison)]


def test_drift_is_told_for_every_exit(make_comparison):
    comparison = make_comparison("LwF", drift=True)
    *_, section = sections(comparison)
    assert section.title == "Drift"
    assert set(section.figures) == {"drift-LwF", "drift-LwF + sdn"}
    assert len({figure.axes[0].get_ylim() for figure in section.figures.values()}) == 1
    rows = {(row[0], row[1]): row[2:] for row in section.tables[0].rows}
    first, second = (run.drift() for run in comparison.groups[1].runs)
    features, newest = rows["LwF + sdn", "exit 1"]
    assert features.values == pytest.approx([each.since_learned[2, :2, 1].mean().item() for each in (first, second)])
    weights = first.weights[2, 1]
    assert newest.values[0] == pytest.approx((weights[2] / ((weights[0] + weights[1]) / 2)).item())
    curve = next(line for line in section.figures["drift-LwF + sdn"].axes[0].lines if line.get_label() == "final")
    after_second = [each.since_learned[1, 0, 2].item() for each in (first, second)]
    assert curve.get_ydata()[0] == pytest.approx(100 * sum(after_second) / 2)


def test_means_over_tasks_leave_out_those_without_test_samples(stored_run, tmp_path):
    run = stored_run(tmp_path, drift=True, sizes=(2, 0, 3))
    last = Drift(**{name: value[2] for name, value in vars(run.drift()).items()})
    weights = last.weights.index_fill(1, torch.tensor(1), math.nan)
    run.keep_drift(2, replace(last, weights=weights), Grams([], []))
    (comparison,), _ = compare([run])
    (row,) = exit_accuracies(comparison.groups).rows
    first, second, third = run.records[-1].exits
    assert all(map(math.isnan, second))
    means = [(a + b) / 2 for a, b in zip(first, third, strict=True)]
    assert [cell.values for cell in row[1:]] == [pytest.approx((mean,)) for mean in means]
    newest = [row[-1].values for row in drift_table(comparison.groups).rows]
    assert newest == [pytest.approx((new / old,)) for old, _, new in weights.tolist()]
