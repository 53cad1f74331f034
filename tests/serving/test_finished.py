import pytest
import torch
import torchvision
import yaml
from PIL import Image

from cl_ac.backbones.branching import branch, make_branching
from cl_ac.backbones.vit import MLP, ViT
from cl_ac.cli.main import main
from cl_ac.data.loading import Loader
from cl_ac.errors import ConfigurationError, DataError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import TOP, Confidence, LearnedScorer, Patience, decide
from cl_ac.network import ExitNetwork, Exits
from cl_ac.recording.rundir import RunDirectory
from cl_ac.serving.export import export_stages, script_stages
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save, serving_state


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Makes a finished run of digits with three ACs, one for each approach."""
    made = {}

    def make(approach: str, *options: str) -> RunDirectory:
        if approach not in made:
            out = tmp_path_factory.mktemp("runs")
            given = ["--approach", approach, "--benchmark", "Digits", "--backbone", "SmallConvNet", "--exits", "sdn"]
            given += ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "20", "--training.epochs", "1"]
            given += ["--training.batch_size", "32", "--device", "cpu", "--out", str(out), "--name", "run"]
            assert main(["run", *given, *options]) == 0
            made[approach] = RunDirectory(out / "run")
        return made[approach]

    return make


APPROACHES = {
    "LwF": [],
    "BiC": ["--memory.size", "40", "--approach.bias_epochs", "2"],
    "ICaRL": ["--memory.size", "40"],
}


def images_of(directory: RunDirectory):
    """The test images as the network takes them."""
    run = finished(directory, "cpu")
    benchmark = run.objects.benchmark
    samples, _ = benchmark.seen(benchmark[1])
    loader = Loader(samples, benchmark.augmentation, run.device, 0)
    return run, torch.cat(list(loader.in_order(256)))


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_rebuilt_run_answers_as_its_stored_outputs(run_of, approach):
    directory = run_of(approach, *APPROACHES[approach])
    run, images = images_of(directory)
    outputs = directory.outputs(1)
    rule = Confidence(outputs.confidences[1].quantile(0.633).item())
    expected = decide(rule, outputs)
    answers = EarlyExitModel(run.network, run.objects.approach, rule)(images)
    assert torch.equal(answers.exits, expected.exits)
    assert torch.equal(answers.predictions, expected.predictions)
    assert len(expected.exits.unique()) > 1


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_saved_model_answers_the_same(run_of, approach, tmp_path):
    directory = run_of(approach, *APPROACHES[approach])
    run, images = images_of(directory)
    weights = torch.randn(4, TOP + 4, generator=torch.Generator().manual_seed(0))
    for rule in (Confidence((0.3, 0.4, 0.5, 0.6)), Patience(3, "last"), LearnedScorer(0.5, weights=weights)):
        model = EarlyExitModel(run.network, run.objects.approach, rule)
        before = model(images)
        save(model, tmp_path / "model.pt", directory.config)
        again = load(tmp_path / "model.pt", "cpu")
        after = again(images)
        assert torch.equal(after.predictions, before.predictions)
        assert torch.equal(after.exits, before.exits)
        assert torch.equal(after.confidences, before.confidences)
        assert again.rule == rule
    plain = EarlyExitModel(run.network, None, Confidence())
    save(plain, tmp_path / "plain.pt", directory.config)
    assert load(tmp_path / "plain.pt", "cpu").approach is None


def test_a_saved_model_holds_no_images_and_no_teacher(run_of):
    approach = finished(run_of("BiC", *APPROACHES["BiC"]), "cpu").objects.approach
    everything, served = approach.state_dict(), serving_state(approach)
    assert any(key.startswith("memory.") for key in everything)
    assert any(key.startswith("teacher.") for key in everything)
    assert set(served) == {"earlier", "newest", "task_of_class"}


def test_what_cannot_be_loaded_is_one_sentence(run_of, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("nothing")
    with pytest.raises(DataError, match="is no saved early-exit model"):
        load(path, "cpu")
    torch.save({"version": 99}, path)
    with pytest.raises(DataError, match="has version 99"):
        load(path, "cpu")
    directory = run_of("BiC", *APPROACHES["BiC"])
    run, _ = images_of(directory)
    save(EarlyExitModel(run.network, run.objects.approach, Confidence()), path, directory.config)
    content = torch.load(path, weights_only=True)
    del content["approach"]["newest"]
    torch.save(content, path)
    with pytest.raises(DataError, match="does not fit the approach BiC"):
        load(path, "cpu")


def test_what_is_not_finished_is_one_sentence(run_of, tmp_path):
    with pytest.raises(ConfigurationError, match="holds no run"):
        finished(RunDirectory(tmp_path))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run_of("LwF").config))
    with pytest.raises(ConfigurationError, match=r"has no checkpoint\.pt"):
        finished(RunDirectory(tmp_path))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("how", ["export", "script"])
def test_stages_run_elsewhere_for_any_batch_size(toy_network, tmp_path, how, cascade, fold):
    network = toy_network(Exits(["first", "second"], [0.3, 0.6], cascade=cascade), (2, 3)).eval()
    if cascade:
        torch.nn.init.normal_(network.heads[1].cascade.new_weight)
    parts = []
    for index, part in enumerate((export_stages if how == "export" else script_stages)(network, fold)):
        path = tmp_path / f"{index}.pt2"
        if how == "export":
            torch.export.save(part, path)
            parts.append(torch.export.load(path).module())
        else:
            torch.jit.save(part, path)
            parts.append(torch.jit.load(path))
    for batch in (1, 5):
        images = torch.randn(batch, 1, 6, 6)
        expected, hidden, logits = network(images), images, None
        for index, part in enumerate(parts):
            hidden, logits = part(hidden, logits) if cascade and index else part(hidden)
            torch.testing.assert_close(logits, expected[index], rtol=1e-4, atol=1e-5)
    assert all(parameter.requires_grad for parameter in network.parameters()), "the network may go on learning"


@pytest.mark.parametrize("branches", [1, 2])
def test_stages_of_transformers_and_of_branches_are_exported_for_any_batch_size(branches):
    backbone = ViT((1, 8, 8), width=8, depth=2, patch=4, heads=2)
    make_branching(backbone)
    network = ExitNetwork(backbone, backbone.exits("ln"))
    network.grow(2, 0)
    if branches > 1:
        branch(network, 0)
    programs = [program.module() for program in export_stages(network.eval())]
    for batch in (1, 5):
        hidden = images = torch.randn(batch, 1, 8, 8)
        for program, expected in zip(programs, network(images), strict=True):
            hidden, logits = program(hidden)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_model_may_be_loaded_folded(run_of, tmp_path):
    directory = run_of("LwF")
    run, images = images_of(directory)
    model = EarlyExitModel(run.network, run.objects.approach, Confidence(0.0), fold=True)
    save(model, tmp_path / "model.pt", directory.config)
    exact, folded = (load(tmp_path / "model.pt", "cpu", fold) for fold in (False, True))
    torch.testing.assert_close(folded(images).confidences, exact(images).confidences)
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in exact.segments.modules())
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.segments.modules())


def test_a_sparsified_transformer_comes_back_with_its_silent_neurons(tmp_path):
    vit = ["--backbone", "ViT", "--backbone.width", "16", "--backbone.depth", "2", "--backbone.patch", "4"]
    benchmark = ["--benchmark", "Digits", "--benchmark.tasks", "2", "--benchmark.samples_per_class", "10"]
    training = ["--training.epochs", "2", "--training.optimizer", "adamw", "--training.lr", "0.001"]
    options = ["--approach", "FineTuning", *benchmark, *vit, *training, "--sparsify.loss", "hoyer", "--device", "cpu"]
    assert main(["run", *options, "--out", str(tmp_path), "--name", "run"]) == 0
    directory = RunDirectory(tmp_path / "run")
    run = finished(directory, "cpu")
    assert [type(each.activation) for each in run.network.modules() if isinstance(each, MLP)] == [torch.nn.ReLU] * 2
    samples, _ = run.objects.benchmark.seen(run.objects.benchmark.tasks[-1])
    trainer = run.trainer
    torch.testing.assert_close(trainer.predict(run.network, samples), directory.outputs(1).logits)


def test_pictures_become_the_inputs_that_the_network_was_tested_on(run_of):
    run, images = images_of(run_of("LwF"))
    stored = run.objects.benchmark.seen(run.last_task)[0].images[:3]
    pictures = [Image.fromarray(picture.numpy()) for picture in stored[:, 0]]
    assert torch.equal(run.inputs(pictures), images[:3])
    assert run.inputs([pictures[0].convert("RGBA").resize((30, 20))]).shape == images[:1].shape


def test_a_run_from_published_weights_is_complete_without_them(tmp_path, capsys):
    weights = tmp_path / "shufflenet.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), weights)
    given = ["--approach", "FineTuning", "--benchmark", "Digits", "--backbone", "torchvision:shufflenet_v2_x0_5"]
    given += ["--backbone.weights", str(weights), "--benchmark.augmentation.size", "32", "--device", "cpu"]
    given += ["--benchmark.tasks", "2", "--benchmark.samples_per_class", "4", "--training.epochs", "1"]
    given += ["--out", str(tmp_path), "--loggers", "[]"]
    assert main(["run", *given, "--name", "run"]) == 0
    weights.unlink()
    run = finished(RunDirectory(tmp_path / "run"), "cpu")
    assert run.inputs([Image.new("RGB", (40, 30), "red")]).shape == (1, 3, 32, 32)
    capsys.readouterr()
    assert main(["run", *given, "--name", "other"]) == 2
    assert f"weights '{weights}' cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
