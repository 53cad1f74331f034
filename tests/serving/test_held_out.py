from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.exits.calibration import fit_tlc, with_temperature
from cl_ac.exits.rules import Confidence, decide
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.held_out import accuracy_within, advice, candidates, correction_tables, fitted_rules, held_out_table
from cl_ac.serving.finished import finished
from cl_ac.serving.held_out import Correction, held_out_outputs, held_out_samples, task_correction
from cl_ac.streams.repetition import SlotRepetition


def test_thresholds_are_chosen_without_the_test_samples(random_outputs):
    held_out, test = random_outputs(0, samples=300), random_outputs(1, samples=300)
    before = accuracy_within(Confidence(), held_out, test, 0.7, False)
    # Other targets of the test samples change their accuracy, but not who leaves where.
    mistaken = replace(test, targets=(test.targets + 1) % 5)
    after = accuracy_within(Confidence(), held_out, mistaken, 0.7, False)
    assert before > after
    assert torch.tensor(accuracy_within(Confidence(), held_out, test, 0.1, False)).isnan()


def test_calibration_repairs_exits_that_are_differently_sure(random_outputs):
    """One threshold for all exits fails where early ones are too sure; temperatures and quantiles repair it."""
    temperatures = torch.tensor([0.2, 0.5, 1.0, 3.0])
    skewed = [with_temperature(random_outputs(seed, samples=2000), temperatures) for seed in (0, 1)]
    found = candidates(*skewed)

    def at(name: str) -> float:
        rule, fitted, tested, per_exit = found[name]
        return accuracy_within(rule, fitted, tested, 0.8, per_exit)

    assert at("confidence, temperature scaling") > at("confidence") + 0.01
    assert at("learned scorer") > at("confidence")
    rule, _, tested, _ = found["confidence, temperature scaling"]
    assert torch.equal(tested.predictions, skewed[1].predictions)
    assert decide(rule, tested).exits.shape == (2000,)


def test_table_has_a_row_for_each_candidate(random_outputs):
    held_out, test = random_outputs(0), random_outputs(1)
    rules = fitted_rules(held_out, test)
    assert held_out_table(rules).row_count == len(rules) == len(candidates(held_out, test)) == 8
    rule, *_ = candidates(held_out, test)["entropy"]
    assert rules["entropy"].at[0.75] == accuracy_within(rule, held_out, test, 0.75, False)


def test_advice_comes_from_held_out_samples(random_outputs):
    held_out, test = random_outputs(0, samples=500), random_outputs(1, samples=500)
    # Logits of the last task's classes are too high in all samples: what is added to the others is of use.
    biased = [replace(each, logits=each.logits + torch.tensor([0, 0, 9.0, 9.0, 9.0])) for each in (held_out, test)]
    of_use = Correction(4.0, 5.0, biased[1], biased[1])
    assert advice(of_use, biased[0]).endswith(": apply it")
    harmful = Correction(-4.0, -5.0, biased[1], biased[1])
    # The test samples say otherwise, and are not asked.
    assert advice(replace(harmful, after=test), biased[0]).endswith(": leave it")
    assert "held no samples out" in advice(of_use, None)


@pytest.mark.parametrize("validation", [0.25, "test"])
def test_held_out_samples_are_those_of_all_tasks(tmp_path, validation):
    given = ["--approach", "LwF", "--benchmark", "Digits", "--backbone", "SmallConvNet", "--exits", "sdn"]
    given += ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "8", "--training.epochs", "1"]
    given += ["--benchmark.validation", str(validation), "--device", "cpu", "--out", str(tmp_path), "--name", "run"]
    assert main(["run", *given]) == 0
    directory = RunDirectory(tmp_path / "run")
    run = finished(directory, "cpu")
    trainer = run.trainer
    outputs = held_out_outputs(run, trainer, directory.outputs(1).cost)
    if validation == "test":
        assert outputs is None
        return
    assert outputs.targets.bincount().tolist() == [2] * 10
    assert torch.equal(outputs.tasks, (outputs.targets >= 5).long())
    few = held_out_outputs(run, trainer, directory.outputs(1).cost, images=7)
    assert few.logits.shape[1] == len(few.targets) == len(few.tasks) == 7


def test_tasks_that_bring_known_classes_again_hold_nothing_out(toy_benchmark):
    benchmark = toy_benchmark(tasks=6, validation=0.25)
    benchmark.stream = SlotRepetition(classes=3)
    run = SimpleNamespace(last_task=benchmark[-1])
    assert not all(task.is_tested for task in benchmark)
    samples, indices = held_out_samples(run)
    assert samples.targets.bincount().tolist() == [3] * 6
    for index, task in enumerate(benchmark):
        columns = torch.arange(task.classes.start, task.classes.stop)
        assert torch.equal(samples.targets[indices == index].unique(), columns)


def test_task_correction_is_fitted_to_training_samples_of_the_last_task(tmp_path):
    given = ["--approach", "LwF", "--benchmark", "Digits", "--backbone", "SmallConvNet", "--exits", "sdn"]
    given += ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "20", "--training.epochs", "2"]
    given += ["--device", "cpu", "--out", str(tmp_path), "--name", "run"]
    assert main(["run", *given]) == 0
    directory = RunDirectory(tmp_path / "run")
    run = finished(directory, "cpu")
    trainer = run.trainer
    stored = directory.outputs(1)
    found = task_correction(run, trainer, stored)
    # Two tasks: only the sum of slope and offset counts, and the last task's logits stay.
    added = found.after.logits - found.before.logits
    torch.testing.assert_close(added[:, :, :5], torch.full_like(added[:, :, :5], found.slope + found.offset))
    assert not added[:, :, 5:].any()
    last = run.objects.benchmark[1].train
    logits = trainer.predict(run.network, last)
    assert (found.slope, found.offset) == fit_tlc(logits, (5, 5))
    budgets, exits = correction_tables(found)
    assert (budgets.row_count, exits.row_count) == (4, 2)
    assert len(exits.columns) == 1 + len(stored.logits)
