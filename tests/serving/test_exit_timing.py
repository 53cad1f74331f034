import json
import time
from dataclasses import replace

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError
from cl_ac.exits.cost import exit_costs
from cl_ac.exits.curves import cost_accuracy
from cl_ac.exits.rules import Confidence
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.exit_timing import timing_table
from cl_ac.serving.exit_timing import (
    TIMED_BUDGETS,
    Measurement,
    Timing,
    affordable_rules,
    interleaved_medians,
    measure,
    time_rules,
)
from cl_ac.serving.held_out import Correction


def test_runs_take_turns():
    order = []
    runs = {"slow": lambda: (order.append("slow"), time.sleep(0.02)), "fast": lambda: order.append("fast")}
    seconds = interleaved_medians(runs, 3, torch.device("cpu"))
    assert order == ["slow", "fast"] * 4
    assert seconds["slow"] > seconds["fast"]


def test_counted_cost_is_that_of_the_exits_taken(toy_network):
    network = toy_network("sdn", (2, 3))
    cost, images = exit_costs(network), torch.randn(10, 1, 6, 6)
    rules = {"first": Confidence(0.0), "never": Confidence(2.0), "second": Confidence((2.0, 0.0, 0.0))}
    found = time_rules(network, None, rules, images, batch=4, cost=cost, repeats=1)
    assert found["first"].counted == pytest.approx(cost.relative[0])
    assert found["second"].counted == pytest.approx(cost.relative[1])
    assert found["never"].counted == pytest.approx(cost.relative[-1])
    assert found["second"].shares.tolist() == [0, 1, 0, 0]
    assert all(timing.measured > 0 and timing.images_per_second > 0 for timing in found.values())


def test_rules_are_within_their_budgets(random_outputs):
    outputs = random_outputs(0)
    rules = affordable_rules(outputs)
    assert list(rules) == [budget for budget in TIMED_BUDGETS if budget >= outputs.cost.relative[0]]
    assert affordable_rules(replace(outputs), [0.01]) == {}
    threshold = torch.tensor([rules[0.6].threshold], dtype=torch.float64)
    assert cost_accuracy(outputs, thresholds=threshold).cost.item() <= 0.6


@pytest.mark.parametrize("validation", ["0.2", "test"])
def test_measuring_a_run(tmp_path, capsys, validation):
    given = ["--approach", "LwF", "--benchmark", "Digits", "--backbone", "SmallConvNet", "--exits", "sdn"]
    given += ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "20", "--training.epochs", "1"]
    given += ["--benchmark.validation", validation, "--device", "cpu", "--out", str(tmp_path), "--name", "run"]
    assert main(["run", *given]) == 0
    told = []
    measurement = measure(
        RunDirectory(tmp_path / "run"), "cpu", batches=(32,), images=200, progress=lambda *each: told.append(each)
    )
    assert measurement.images == 200
    phases = list(dict.fromkeys(phase for phase, *_ in told))
    assert "seconds at batch 32" in phases
    assert all(any(each[0] == phase and each[1] == each[2] for each in told) for phase in phases)
    assert (measurement.held_out is not None) == (validation == "0.2")
    # One sample may be rounded to the other side of a threshold that another one set.
    assert all(share > 0.99 for share in measurement.agreement.values())
    assert set(measurement.timings) == {32}
    assert timing_table(measurement).row_count == len(measurement.rules) > 0
    assert main(["exits", str(tmp_path / "run"), "--images", "64", "--measure", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "accuracy within a budget" in printed.out
    assert "reliability.png" in printed.out
    assert "early exits at each budget: done" in printed.err
    kept = json.loads((tmp_path / "run" / "exits" / "measured.json").read_text())
    assert kept["images"] == 64
    assert kept["budgets"]["1"]["timings"]["256"]["measured"] > 0
    assert bool(kept["fitted_rules"]) == (kept["held_out_samples"] is not None) == (validation == "0.2")
    assert kept["budgets"]["0.5"]["accuracy"] == measurement.accuracy[0.5]
    assert main(["exits", str(tmp_path / "run"), "--images", "0", "--measure", "--device", "cpu"]) == 2
    assert "images is 0" in capsys.readouterr().err
    assert main(["exits", str(tmp_path / "nothing")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_exits_that_are_slower_at_most_budgets_are_told(random_outputs):
    outputs = random_outputs(0)
    rules = affordable_rules(outputs, [0.5, 0.7, 1.0])

    def timings(*measured: float) -> dict:
        return {b: Timing(b, share, share, 1.0, torch.ones(5) / 5) for b, share in zip(rules, measured, strict=True)}

    same = dict.fromkeys(rules, 1.0)
    correction = Correction(0.0, 0.0, outputs, outputs)
    taken = {1: timings(0.9, 1.1, 1.2), 32: timings(0.5, 0.9, 1.3)}
    measurement = Measurement(None, 200, outputs, correction, rules, same, same, taken)
    assert "take longer than the network without ACs at most budgets (batch 1)" in timing_table(measurement).caption
    quick = replace(measurement, timings={32: taken[32]})
    assert "take longer" not in timing_table(quick).caption


def test_what_cannot_exit_early_is_refused_before_anything_runs(digits_run):
    directory = digits_run("--backbone", "SmallConvNet", "--approach", "HAT", "--exits", "sdn")
    phases = []
    with pytest.raises(ConfigurationError, match="HAT answers with a network for each task"):
        measure(directory, "cpu", progress=lambda phase, *_: phases.append(phase))
    assert not phases
