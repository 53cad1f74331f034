from dataclasses import replace

from cl_ac.report.comparison import compare
from cl_ac.report.sections import sections


def test_counted_training_stands_beside_seconds_and_accuracy(stored_run, tmp_path):
    runs = []
    for seed in (0, 1):
        runs.append(stored_run(tmp_path / str(seed), {"seed": seed}, tasks=2))
        macs = {"new images": 4000.0, "samples": 1000.0, "decoder": 500.0, "teacher": 0.0, "generator": 700.0}
        last = replace(runs[-1].records[-1], training_macs=macs, seconds=1.0 + seed)
        runs[-1].finish(last, runs[-1].outputs(1))
    (comparison,), _ = compare(runs)
    (section,) = (section for section in sections(comparison) if section.title == "Cost of training")
    (row,) = section.tables[0].rows
    # The first task took 1 s.
    assert [str(cell) for cell in row[1:8]] == ["4.0", "1.0", "0.5", "0.0", "0.7", "2.2", "2.5 ± 0.7"]
    assert row[8].mean == sum(each.accuracy for each in comparison.groups[0].summaries) / 2


def test_runs_that_count_nothing_have_no_such_section(stored_run, tmp_path):
    (comparison,), _ = compare([stored_run(tmp_path / "run", {"seed": 0}, tasks=2)])
    assert "Cost of training" not in [section.title for section in sections(comparison)]
