import json

import pytest
import torch

from cl_ac.cli import main
from cl_ac.early_exit_model import EarlyExitModel
from cl_ac.efficiency.convert import Conversion
from cl_ac.efficiency.dynamic import dynamic_ffns, recording, set_gate
from cl_ac.efficiency.finetune import FineTuning
from cl_ac.efficiency.flops import count_macs
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError
from cl_ac.exit_rules import Confidence, decide
from cl_ac.report.conversion import Settings, chosen, convert_run, measure, numbers, sample_costs, table, training_data
from cl_ac.rundir import RunDirectory
from cl_ac.serving import finished, load

RUN = ["--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "12", "--device", "cpu"]
RUN += ["--benchmark.validation", "0", "--training.epochs", "2", "--training.batch_size", "16"]
RUN += ["--training.optimizer", "adamw", "--training.lr", "0.002", "--training.schedule", "constant"]
VIT = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "3", "--backbone.patch", "4"]
CONVERSION = Conversion(8, router_width=4, tokens=500, router_training=RouterTraining(1))


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> RunDirectory:
    """A finished run of a ViT with two ACs and exemplars."""
    out = tmp_path_factory.mktemp("runs")
    given = ["--approach", "ER", "--memory.size", "20", "--exits", "ln", "--out", str(out), "--name", "run"]
    assert main(["run", *RUN, *VIT, *given]) == 0
    return RunDirectory(out / "run")


@pytest.fixture(scope="module")
def converted(directory):
    settings = Settings(taus=(0.01, 0.4, 1.0), tolerance=0.5)
    return convert_run(directory, settings, CONVERSION, FineTuning(1), Sparsify("hoyer"), "cpu")


def test_the_command_writes_numbers_figures_and_a_model(directory, capsys):
    given = ["--experts.size", "8", "--experts.router_width", "4", "--experts.tokens", "500", "--finetune.epochs", "1"]
    given += ["--experts.router_training.epochs", "1", "--taus", "[0.1,0.9]", "--tolerance", "0.9", "--device", "cpu"]
    assert main(["convert", str(directory.path), *given]) == 0
    written = {path.name for path in (directory.path / "convert").iterdir()}
    assert written == {"numbers.json", "cost_accuracy.png", "expert_load.png", "expert_maps.png", "model.pt"}
    content = json.loads((directory.path / "convert" / "numbers.json").read_text())
    assert {"original", "sparse, still dense", "D2DMoE tau 0.1", "D2DMoE tau 0.9"} < set(content["points"])
    assert content["chosen_on"] == "test samples"
    assert "D2DMoE tau 0.9" in capsys.readouterr().out
    model = load(directory.path / "convert" / "model.pt", "cpu")
    ffns = dynamic_ffns(model.network)
    assert len(ffns) == 3
    assert {ffn.gate.threshold for ffn in ffns.values()} == {content["chosen"]["tau"]}


def test_the_original_is_the_run_as_it_was(directory, converted):
    stored = directory.outputs(1)
    torch.testing.assert_close(converted.original.outputs.logits, stored.logits)
    assert converted.original.outputs.cost.exits == pytest.approx(stored.cost.exits)
    assert converted.original.ffn_cost == converted.dense.ffn_cost == 1
    assert {each.activation for each in dynamic_ffns(converted.dynamic).values()} == {"relu"}


def test_costs_of_samples_add_up_to_what_a_counter_sees(directory, converted):
    run, network = finished(directory, "cpu"), converted.dynamic
    set_gate(network, Gate("max", 0.4))
    images = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    base = run.network.cost()
    with recording(network) as recordings, torch.no_grad():
        network(images)
    costs = sample_costs(network, recordings, base, len(images)) * base.plain
    for exit_index in range(3):
        for image, cost in zip(images, costs[exit_index], strict=True):

            def up_to_exit(hidden: torch.Tensor = image[None], last: int = exit_index) -> None:
                for index in range(last + 1):
                    hidden = network.segment(index, hidden)
                    network.heads[index](hidden)

            assert count_macs(up_to_exit) == pytest.approx(cost.item())


def test_fewer_experts_cost_less_and_the_choice_is_the_cheapest_allowed(converted):
    costs = [point.ffn_cost for point in converted.points]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.5
    choice = converted.choice
    wanted = converted.original.curve.accuracy[-1] - 0.5 - 1e-9
    allowed = [point.curve.cost[point.curve.accuracy >= wanted] for point in converted.points]
    assert choice.cost == pytest.approx(torch.cat(allowed).min().item())
    (point,) = (each for each in converted.points if each.gate.threshold == choice.tau)
    decision = decide(Confidence(choice.confidence), point.outputs)
    assert choice.accuracy == pytest.approx((decision.predictions == point.outputs.targets).double().mean().item())
    assert chosen(converted.original, converted.points, -2.0) is None


def test_the_chosen_model_answers_as_its_rule_on_the_outputs(directory, converted):
    choice, run = converted.choice, converted.run
    set_gate(converted.dynamic, Gate("max", choice.tau))
    samples, _ = run.objects.benchmark.seen(run.objects.benchmark[1])
    images = run.objects.benchmark.augmentation.apply(samples.images)
    answers = EarlyExitModel(converted.dynamic, run.objects.approach, Confidence(choice.confidence))(images)
    assert (answers.predictions == samples.targets).double().mean().item() == pytest.approx(choice.accuracy, abs=0.02)


def test_measured_times_stand_in_the_table(converted):
    measured = measure(converted, batches=(8,), repeats=1)
    assert set(measured[8]) == {"tau 0.01", "tau 0.4", "tau 1", "chosen"}
    assert all(seconds > 0 for seconds in measured[8].values())
    made = table(converted, measured)
    assert made.row_count == 3 + 3 + len(converted.baseline)
    assert len(made.columns) == 7
    assert json.loads(json.dumps(numbers(converted, measured)))["measured"]["8"] == measured[8]


def test_data_are_of_all_tasks_the_last_or_the_memory(directory):
    run = finished(directory, "cpu")
    assert [len(training_data(run, which)) for which in ("all", "last", "memory")] == [120, 60, 20]
    assert training_data(run, "last").targets.min() == 5
    run.objects.approach.memory.images = run.objects.approach.memory.images[:0]
    run.objects.approach.memory.targets = run.objects.approach.memory.targets[:0]
    with pytest.raises(ConfigurationError, match="the run kept no exemplars; choose all or last"):
        training_data(run, "memory")


def test_held_out_samples_choose_where_there_are_any_and_one_exit_will_do(tmp_path):
    given = ["--approach", "FineTuning", "--benchmark.validation", "0.25", "--out", str(tmp_path), "--name", "plain"]
    assert main(["run", *RUN, *VIT, *given]) == 0
    settings = Settings(taus=(0.5,), tolerance=0.9, baseline=False)
    conversion = Conversion(8, router_width=4, tokens=200, router_training=RouterTraining(1))
    made = convert_run(RunDirectory(tmp_path / "plain"), settings, conversion, FineTuning(0), Sparsify(), "cpu")
    assert numbers(made, {})["chosen_on"] == "held-out training samples"
    assert made.baseline == []
    assert made.choice.cost == pytest.approx(made.points[0].whole[0])
    # Nothing was trained: the sparse network is the original.
    assert torch.equal(made.dense.outputs.logits, made.original.outputs.logits)


def test_a_network_without_transformer_is_one_sentence(tmp_path, capsys):
    given = ["--approach", "FineTuning", "--backbone", "SmallConvNet", "--out", str(tmp_path), "--name", "conv"]
    assert main(["run", *RUN, *given]) == 0
    assert main(["convert", str(tmp_path / "conv"), "--device", "cpu"]) == 2
    assert "the backbone SmallConvNet of" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "conv"), "--taus", "[2]"]) == 2
    assert "taus is [2.0]; give thresholds above 0 and at most 1" in capsys.readouterr().err
