import io

import pytest
import torch

from cl_ac.errors import ConfigurationError
from cl_ac.evaluation import ExitCosts, Outputs
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import accuracy_of_samples, overconfident_exits, percent, summarise, without_acs
from cl_ac.report.tables import summary_table


def finished(path, right: list[list[list[bool]]], cost: ExitCosts, config: dict | None = None) -> RunDirectory:
    """A run of one sample per task and class 0 … T − 1; `right[t][exit][u]` says whether the exit is right."""
    directory = RunDirectory(path)
    directory.open(config or {"seed": 0}, resume=False)
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
    return finished(tmp_path / "plain", [[[True]], [[False, True]]], ExitCosts([10.0], 10.0))


@pytest.fixture
def with_acs(tmp_path):
    return finished(tmp_path / "acs", [[[True], [True]], [[False, True], [True, True]]], ExitCosts([4.0, 11.0], 10.0))


def test_summary_of_a_run(plain, with_acs):
    summary = summarise(plain)
    assert (summary.accuracy, summary.incremental, summary.forgetting) == (0.5, 0.75, 1.0)
    assert summary.per_task == [0.0, 1.0]
    both = summarise(with_acs)
    assert (both.accuracy, both.forgetting) == (1.0, 0.0)
    assert both.per_exit == [0.5, 1.0]


def test_cost_at_equal_accuracy_refers_to_the_like_run_without_acs(tmp_path):
    def run(name: str, approach: str, seed: int, right: list, strength: float = 1.0) -> RunDirectory:
        options = {"class_path": f"cl_ac.approaches.{approach.lower()}.{approach}", "init_args": {"strength": strength}}
        cost = ExitCosts([10.0], 10.0) if len(right[-1]) == 1 else ExitCosts([4.0, 11.0], 10.0)
        return finished(tmp_path / name, right, cost, {"seed": seed, "approach": options})

    with_acs = run("acs", "LwF", 1, [[[True], [True]], [[False, True], [True, True]]])
    others = [
        run("other approach", "ER", 1, [[[True]], [[True, True]]]),
        run("other seed", "LwF", 0, [[[True]], [[True, True]]]),
        run("shorter", "LwF", 1, [[[True]]]),
    ]
    assert without_acs(with_acs, [with_acs, *others]) is None
    stronger = run("other strength", "LwF", 1, [[[True]], [[True, True]]], strength=2.0)
    assert without_acs(with_acs, [stronger, *others]) is stronger
    like = run("like", "LwF", 1, [[[True]], [[False, True]]])
    assert without_acs(with_acs, [stronger, *others, like]) is like
    assert accuracy_of_samples(like) == 0.5
    assert summarise(with_acs, 0.5).cost_at_final == pytest.approx(0.4)
    assert summarise(like, 0.9).cost_at_final is None
    table = summary_table([with_acs, *others, like])
    assert table.columns[-1].header == "cost at equal accuracy"
    assert list(table.columns[-1].cells) == ["40 %", "–", "–", "–", "–"]
    assert "cost at equal accuracy" not in [column.header for column in summary_table([with_acs, *others]).columns]


def test_an_exit_that_guesses_and_is_sure_is_named(tmp_path):
    targets, cost = torch.arange(4), ExitCosts([4.0, 11.0], 10.0)
    logits = torch.zeros(2, 4, 4)
    logits[0, :, 0] = 9.0  # one class for all samples, surely
    logits[1, targets, targets] = 1.0
    outputs = Outputs(logits, targets, torch.zeros(4, dtype=torch.int64), (4,), cost)
    assert list(overconfident_exits(outputs)) == ["exit 0"]
    assert overconfident_exits(outputs)["exit 0"] == (0.25, pytest.approx(1.0, abs=1e-3))
    directory = RunDirectory(tmp_path / "run")
    directory.open({"seed": 0}, resume=False)
    directory.finish(Record.of(0, outputs, 1.0), outputs)
    caption = summary_table([directory]).caption
    assert "run: the exit 0 guesses (25.0 % of all samples right) and yet is sure of itself" in caption
    logits[0, :, 0] = 0.1  # as wrong, but it knows
    assert not overconfident_exits(Outputs(logits, targets, outputs.tasks, (4,), cost))


def test_table_shows_every_run(plain, with_acs):
    from rich.console import Console

    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    console.print(summary_table([plain, with_acs]))
    text = console.export_text()
    assert "plain" in text
    assert "acs" in text
    assert "40 %" in text


def test_more_tasks_than_anybody_reads_are_not_listed(tmp_path, random_outputs):
    directory = RunDirectory(tmp_path / "long")
    directory.open({"seed": 0}, resume=False)
    for task in range(21):
        outputs = random_outputs(task, 1, 40, (1,) * (task + 1))
        directory.finish(Record.of(task, outputs, 1.0), outputs)
        headers = [column.header for column in summary_table([directory]).columns]
        assert ("per task" in headers) == (task < 20)


def test_an_unfinished_run_is_named(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open({}, resume=False)
    with pytest.raises(ConfigurationError, match="holds no finished task"):
        summarise(directory)


def test_percent():
    assert percent(0.1234) == "12.3"
    assert percent(1.0, 0) == "100"
    assert percent(float("nan")) == "–"
