import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.efficiency.dynamic import dynamic_ffns
from cl_ac.efficiency.finetune import SparseTuning
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.serving.conversion import Settings, convert_run, training_data
from cl_ac.serving.finished import finished
from cl_ac.serving.operating_points import Point


def test_the_original_is_the_run_as_it_was(vit_run, converted):
    stored = vit_run.outputs(1)
    torch.testing.assert_close(converted.original.test.outputs.logits, stored.logits)
    assert torch.equal(converted.original.test.outputs.tasks, stored.tasks)
    assert converted.original.test.outputs.cost.exits == pytest.approx(stored.cost.exits)
    assert converted.original.ffn_cost == converted.dense.ffn_cost == 1
    assert {each.activation for each in dynamic_ffns(converted.dynamic).values()} == {"relu"}


def test_moefication_runs_shares_of_the_experts(converted):
    counts = [point.gate.threshold for point in converted.baseline]
    assert counts == [1, 2, 3, 4, 6]
    costs = [point.ffn_cost for point in converted.baseline]
    assert costs == sorted(costs)


def test_held_out_samples_choose_where_there_are_any_and_one_exit_will_do(held_out_run, quick_conversion):
    settings = Settings(taus=(0.5,), tolerance=0.9, baseline=False)
    made = convert_run(held_out_run, settings, quick_conversion, SparseTuning(0), Sparsify(), "cpu")
    assert made.original.held_out is not None
    assert made.baseline == []
    assert made.choice.cost == pytest.approx(made.points[0].whole[0])
    # Nothing was trained: the sparse network is the original.
    assert torch.equal(made.dense.test.outputs.logits, made.original.test.outputs.logits)
    assert made.choice.samples == len(made.original.held_out.outputs.targets) == 30


def test_a_budget_chooses_the_threshold(held_out_run, quick_conversion):
    settings = Settings(taus=(0.9,), tolerance=0.001, budget=0.6, baseline=False)
    made = convert_run(held_out_run, settings, quick_conversion, SparseTuning(0), Sparsify(), "cpu")
    within = next(point for point in made.points if point.gate.threshold == made.choice.tau)
    assert within.ffn_cost == pytest.approx(0.6, abs=0.03)
    assert [point.gate.threshold for point in made.points] == sorted({0.9, made.choice.tau})
    # A single exit, so the tolerance of early exits changes nothing.
    assert made.choice.accuracy == within.whole[1]
    assert made.choice.samples == 0


def test_layers_share_tau_or_the_cost_that_it_has(held_out_run, quick_conversion):
    def swept(allocation: str) -> Point:
        settings = Settings(taus=(0.5,), allocation=allocation, baseline=False)
        return convert_run(held_out_run, settings, quick_conversion, SparseTuning(0), Sparsify(), "cpu").points[0]

    shared, own = swept("shared"), swept("layer")
    assert shared.gate == shared.gates == own.gate == Gate("max", 0.5)
    assert len({gate.threshold for gate in own.gates.values()}) > 1
    assert own.ffn_cost <= shared.ffn_cost + 0.01


def test_a_budget_that_nothing_keeps_to_is_one_sentence(held_out_run, quick_conversion):
    with pytest.raises(UserError, match=r"the budget is 0\.01; the cheapest that these experts can do is"):
        convert_run(held_out_run, Settings(budget=0.01), quick_conversion, SparseTuning(0), Sparsify(), "cpu")


def test_data_are_of_all_tasks_the_last_or_the_memory(vit_run):
    run = finished(vit_run, "cpu")
    assert [len(training_data(run, which)) for which in ("all", "last", "memory")] == [120, 60, 20]
    assert training_data(run, "last").targets.min() == 5
    run.objects.approach.memory.images = run.objects.approach.memory.images[:0]
    run.objects.approach.memory.targets = run.objects.approach.memory.targets[:0]
    with pytest.raises(ConfigurationError, match="the run kept no exemplars; choose all or last"):
        training_data(run, "memory")


def test_what_cannot_be_converted_is_refused_before_training(digits_run, vit_run, capsys):
    conv = digits_run("--approach", "FineTuning", "--backbone", "SmallConvNet", "--training.epochs", "1")
    given = [
        (conv, [], "the backbone SmallConvNet of"),
        (vit_run, ["--taus", "[2]"], "taus is [2.0]; give thresholds above 0 and at most 1"),
        (vit_run, ["--budget", "0"], "budget is 0; it must be above 0"),
        (vit_run, ["--tolerance", "0"], "tolerance is 0; it must be above 0 and below 1"),
        (vit_run, ["--experts.size", "65"], "experts.size is 65; with 64 neurons it must be between 1 and 64"),
        (vit_run, ["--experts.size", "16", "--experts.bundle", "8"], "experts.bundle is 8; with 4 experts it must be"),
    ]
    for directory, options, sentence in given:
        assert main(["convert", str(directory.path), *options, "--device", "cpu"]) == 2
        told = capsys.readouterr().err
        assert sentence in told
        assert "fine-tuning" not in told
