import io

import pytest
import torch

from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import Cost, Outputs
from cl_ac.recording.rundir import Record, RunDirectory
from cl_ac.recording.summary import percent, reference_accuracy, summarise
from cl_ac.report.tables import summary_table


def finished(path, right: list[list[list[bool]]], cost: Cost) -> RunDirectory:
    """A run of one sample per task and class 0 … T − 1; `right[t][exit][u]` says whether the exit is right."""
    directory = RunDirectory(path)
    directory.open({"seed": 0}, resume=False)
    for task, exits in enumerate(right):
        targets = torch.arange(task + 1)
        logits = torch.zeros(len(exits), task + 1, task + 1)
        for index, row in enumerate(exits):
            for sample, is_right in enumerate(row):
                answer = sample if is_right else (sample + 1) % (task + 1)
                # Deeper exits are surer.
                logits[index, sample, answer] = 1.0 + index
        outputs = Outputs(logits, targets, targets, (1,) * (task + 1), cost)
        directory.finish(Record.of(task, outputs, 1.0), outputs)
    return directory


@pytest.fixture
def plain(tmp_path):
    return finished(tmp_path / "plain", [[[True]], [[False, True]]], Cost([10.0], 10.0))


@pytest.fixture
def with_acs(tmp_path):
    return finished(tmp_path / "acs", [[[True], [True]], [[False, True], [True, True]]], Cost([4.0, 11.0], 10.0))


def test_summary_of_a_run(plain, with_acs):
    summary = summarise(plain)
    assert (summary.accuracy, summary.incremental, summary.forgetting) == (0.5, 0.75, 1.0)
    assert summary.per_task == [0.0, 1.0]
    both = summarise(with_acs)
    assert (both.accuracy, both.forgetting) == (1.0, 0.0)
    assert both.per_exit == [0.5, 1.0]


def test_cost_at_equal_accuracy_refers_to_the_first_run_without_acs(plain, with_acs):
    reference = reference_accuracy([with_acs, plain])
    assert reference == 0.5
    assert summarise(with_acs, reference).cost_at_final == pytest.approx(0.4)
    assert summarise(plain, 0.9).cost_at_final is None


def test_table_shows_every_run(plain, with_acs):
    from rich.console import Console

    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    console.print(summary_table([plain, with_acs]))
    text = console.export_text()
    assert "plain" in text
    assert "acs" in text
    assert "40 %" in text


def test_an_unfinished_run_is_named(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open({}, resume=False)
    with pytest.raises(ConfigurationError, match="holds no finished task"):
        summarise(directory)


def test_percent():
    assert percent(0.1234) == "12.3"
    assert percent(1.0, 0) == "100"
    assert percent(float("nan")) == "–"
