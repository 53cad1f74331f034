from cl_ac.report.comparison import compare
from cl_ac.report.run_tables import summary
from cl_ac.report.sections import sections


def test_sections_answer_what_the_runs_have_data_for(make_comparison):
    titles = [
        "Summary", "What differs", "Accuracy and forgetting over tasks", "Accuracy matrices",
        "Known task", "Cost after each task", "Exits", "Cost and accuracy",
    ]  # fmt: skip
    assert [section.title for section in sections(make_comparison("LwF"))] == titles


def test_watched_runs_show_the_stability_gap(make_comparison):
    *_, last = sections(make_comparison("LwF", watch=True))
    assert last.title == "Stability gap"
    of_groups = {"task_accuracy-LwF", "old_tasks-LwF", "task_accuracy-LwF + sdn", "old_tasks-LwF + sdn"}
    assert set(last.figures) == {"gaps-1", *of_groups}
    assert [line.get_label() for line in last.figures["gaps-1"].axes[0].lines] == ["LwF", "LwF + sdn"]


def test_costs_are_compared_only_where_a_run_without_acs_is_there(make_comparison, stored_run, tmp_path):
    assert "cost at equal accuracy" in summary(make_comparison("LwF")).columns
    (alone,), _ = compare([stored_run(tmp_path / "run", {"seed": 0, "exits": "sdn"}, exits=3)])
    assert "cost at equal accuracy" not in summary(alone).columns


def test_one_run_of_one_task_can_be_shown(stored_run, tmp_path):
    (comparison,), _ = compare([stored_run(tmp_path / "run", {"seed": 0}, exits=1, tasks=1, watch=True)])
    found = list(sections(comparison))
    assert [section.title for section in found] == [
        "Summary",
        "Accuracy matrices",
        "Known task",
        "Cost after each task",
        "Stability gap",
    ]
    (row,) = (row for row in found[-1].tables[0].rows if row[1] == "final")
    assert str(row[2]) == "–"
