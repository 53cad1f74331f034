import json
from dataclasses import replace

import pytest
import torch

from cl_ac.cli.main import main
from cl_ac.efficiency.dynamic import dynamic_ffns, set_gate
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.report.conversion_results import decision, figures, numbers, table, write
from cl_ac.serving.conversion import Settings
from cl_ac.serving.conversion_timing import Seconds
from cl_ac.serving.model_file import load
from cl_ac.serving.operating_points import Choice, Chosen

MEASURED = {8: Seconds({0.01: 0.9, 0.4: 0.7, 1.0: 0.5}, 0.4)}


def test_the_command_writes_numbers_figures_and_a_model(vit_run, capsys):
    given = ["--experts.size", "8", "--experts.router_width", "4", "--experts.tokens", "500", "--finetune.epochs", "1"]
    given += ["--experts.router_training.epochs", "1", "--taus", "[0.1,0.9]", "--tolerance", "0.9", "--device", "cpu"]
    given += ["--allocation", "layer"]
    assert main(["convert", str(vit_run.path), *given]) == 0
    written = {path.name for path in (vit_run.path / "convert").iterdir()}
    assert written >= {"numbers.json", "cost_accuracy.png", "expert_load.png", "expert_maps.png", "model.pt"}
    content = json.loads((vit_run.path / "convert" / "numbers.json").read_text())
    assert {"original", "sparse, still dense", "D2DMoE tau 0.1", "D2DMoE tau 0.9"} < set(content["points"])
    assert content["chosen_on"] == "test samples instead of held-out ones"
    assert "D2DMoE tau 0.9" in capsys.readouterr().out
    model = load(vit_run.path / "convert" / "model.pt", "cpu")
    ffns = dynamic_ffns(model.network)
    assert len(ffns) == 3
    point = content["points"][f"D2DMoE tau {content['chosen']['tau']:.3g}"]
    assert {name: ffn.gate.threshold for name, ffn in ffns.items()} == point["thresholds"]
    assert content["chosen"]["samples"] == 355


def test_the_saved_model_answers_as_the_chosen_one(vit_run, converted):
    choice, run = converted.choice, converted.run
    paths = write(converted, vit_run)
    model = load(paths[-1], "cpu")
    samples, _ = run.objects.benchmark.seen(run.last_task)
    images = run.objects.benchmark.augmentation.apply(samples.images)
    set_gate(converted.dynamic, converted.chosen_gates)
    chosen = EarlyExitModel(converted.dynamic, run.objects.approach, Confidence(choice.confidence))(images)
    saved = model(images)
    assert torch.equal(saved.predictions, chosen.predictions)
    assert torch.equal(saved.exits, chosen.exits)
    assert (saved.predictions == samples.targets).double().mean().item() == pytest.approx(choice.accuracy, abs=0.02)


def test_measured_times_stand_in_table_numbers_and_figure(converted):
    made = table(converted, MEASURED)
    assert made.row_count == 2 + 3 + len(converted.baseline) + 1
    assert list(made.columns[-1].cells)[2:5] == ["90", "70", "50"]
    assert list(made.columns[-1].cells)[-1] == "40"
    assert json.loads(json.dumps(numbers(converted, MEASURED)))["measured"]["8"]["chosen"] == 0.4
    drawn = figures(converted, MEASURED)
    (axes,) = drawn["time_accuracy"].axes
    line = next(line for line in axes.lines if line.get_label() == "time, batch 8")
    assert line.get_xdata().tolist() == [0.9, 0.7, 0.5]
    assert line.get_ydata().tolist() == pytest.approx([100 * point.whole[1] for point in converted.points])
    assert "time_accuracy" not in figures(converted)


def test_without_a_choice_there_is_no_model_not_even_an_older_one(converted, vit_run):
    without = replace(converted, chosen=Chosen(None, converted.choice))
    assert table(without).row_count == table(converted).row_count - 1
    assert numbers(without)["chosen"] is None
    folder = vit_run.path / "convert"
    folder.mkdir(exist_ok=True)
    for older in ("model.pt", "time_accuracy.png"):
        (folder / older).touch()
    written = {path.name for path in write(without, vit_run)}
    assert written == {"numbers.json", "cost_accuracy.png", "expert_load.png", "expert_maps.png"}
    assert not any((folder / older).exists() for older in ("model.pt", "time_accuracy.png"))


def test_a_sentence_says_on_what_it_was_decided(converted):
    def said(chosen: Chosen, **settings) -> str:
        return decision(replace(converted, chosen=chosen, settings=Settings(**settings)))

    few, many = Choice(0.1, 0.9, 0.8, 0.5, 144, 0, 0, 0.0184), Choice(0.1, 0.9, 0.8, 0.5, 431, 5, 1, 0.0215)
    assert said(Chosen(None, few), tolerance=0.01) == (
        "Nothing is chosen: 144 test samples instead of held-out ones are too few to show with 95 % confidence that a "
        "model loses at most 1.0 %; that takes 268. Raise --tolerance, or hold out more in the run "
        "(--benchmark.validation)."
    )
    known = "it loses at most 2.1 % against the original with 95 % confidence (5 lost and 1 won of 431 test samples "
    known += "instead of held-out ones)"
    refused = f"Nothing is chosen: of the surest candidate is only known that {known}; 1.0 % is allowed."
    assert said(Chosen(None, many), tolerance=0.01) == refused
    assert said(Chosen(many, None), tolerance=0.03) == f"Of the chosen model is known that {known}; 3.0 % is allowed."
    assert "against its network without early exits" in said(Chosen(many, None), tolerance=0.03, budget=0.5)
    patient = replace(few, samples=0)
    assert said(Chosen(patient, few), tolerance=0.03, budget=0.5).startswith("The chosen model keeps to the budget")
    assert table(converted).caption == decision(converted)
