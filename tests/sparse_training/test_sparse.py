import copy

import pytest
import torch
from torch import nn

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.lwf import LwF
from cl_ac.backbones.small import SmallConvNet
from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.heads import GrowingCosine
from cl_ac.network import NO_EXITS, Backbone, ExitNetwork
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.serving.export import export_stages
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.sparse_training.layers import masked_layers
from cl_ac.sparse_training.sparse import Sparse
from cl_ac.training import Training


def prepared(sparse: Sparse, trainer, task, exits=NO_EXITS, backbone: Backbone | None = None) -> ExitNetwork:
    torch.manual_seed(0)
    network = ExitNetwork(SmallConvNet((1, 6, 6), 16) if backbone is None else backbone, exits)
    sparse.prepare(network)
    sparse.initialise(network, task, trainer)
    return network


def density_of(network: ExitNetwork) -> float:
    layers = list(masked_layers(network))
    return sum(layer.density * layer.size for layer in layers) / sum(layer.size for layer in layers)


@pytest.mark.parametrize(
    "sparse",
    [
        *(Sparse(0.2, layers=layers) for layers in ("uniform", "erk", "magnitude", "snip", "grasp")),
        *(Sparse(0.2, kernels=kernels) for kernels in ("fuller", "whole")),
        *(Sparse(0.2, init) for init in ("isometry", "orthogonal", "gaussian", "own")),
        Sparse(0.2, "gaussian", "synflow", "whole"),
    ],
    ids=lambda sparse: f"{sparse.init}-{sparse.layers}-{sparse.kernels}",
)
def test_the_whole_network_has_the_density(sparse, toy_trainer, toy_benchmark):
    task = toy_benchmark().tasks[0]
    network = prepared(sparse, toy_trainer, task)
    assert density_of(network) == pytest.approx(0.2, abs=0.01)
    again = prepared(sparse, toy_trainer, task)
    for first, second in zip(masked_layers(network), masked_layers(again), strict=True):
        assert torch.equal(first.original, second.original)
        assert torch.equal(first.mask.kept, second.mask.kept)
    if sparse.init == "eoi":
        assert sparse.record(network, task, toy_trainer).orthogonality < 1e-6


def test_masks_go_by_scores_but_for_exact_orthogonality(toy_trainer, toy_benchmark):
    task = toy_benchmark().tasks[0]
    torch.manual_seed(0)
    weights = [layer.weight.detach() for layer in SmallConvNet((1, 6, 6), 16).modules() if isinstance(layer, nn.Conv2d)]
    network = prepared(Sparse(0.3, "own", "magnitude"), toy_trainer, task)
    for layer, weight in zip(masked_layers(network), weights, strict=True):
        kept = layer.mask.kept
        assert weight[kept].abs().min() >= weight[~kept].abs().max() if (~kept).any() else True
        assert torch.equal(layer.weight, torch.where(kept, weight, 0.0))


def test_density_one_leaves_the_network_alone(toy_trainer, toy_benchmark):
    network = prepared(Sparse(), toy_trainer, toy_benchmark().tasks[0])
    torch.manual_seed(0)
    dense = ExitNetwork(SmallConvNet((1, 6, 6), 16))
    assert network.state_dict().keys() == dense.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), dense.parameters(), strict=True))


@pytest.mark.parametrize("training", [Training(2, 8, "sgd", 0.05, 0.9, 1e-2), Training(2, 8, "adamw", 0.01)])
def test_a_resumed_run_goes_on_bit_for_bit_with_its_masks(toy_run, training):
    class Interrupted(LwF):
        left = 11

        def end_step(self, network):
            for layer in masked_layers(network):
                assert (layer.original[~layer.mask.kept] == 0).all()
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    sparse = Sparse(0.4, heads=True)
    options = {"sparse": sparse, "training": training, "exits": "sdn"}
    whole = toy_run(LwF(), "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        toy_run(Interrupted(), "stopped", **options)
    resumed = toy_run(LwF(), "stopped", resume=True, **options)
    first, second = (Checkpoint.load(run.checkpoint_path).network for run in (whole, resumed))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
    assert resumed.sparsity() == whole.sparsity()
    assert resumed.sparsity(2) == whole.sparsity(2)
    assert resumed.sparsity(2).density == pytest.approx(0.4, abs=0.01)
    for name in [name for name in first if name.endswith("_mask")]:
        weight = first[name.replace("_mask", "_weight")]
        assert 0 < first[name].float().mean() < 0.6
        assert (weight[~first[name]] == 0).all()


def test_heads_are_dense_unless_asked_for(toy_run):
    toy_run(FineTuning(), "run", "sdn", sparse=Sparse(0.4))
    state = Checkpoint.load(toy_run(FineTuning(), "again", "sdn", sparse=Sparse(0.4)).checkpoint_path).network
    assert not any(name.endswith("_mask") for name in state)
    assert (state["heads.0.classifier.new_weight"] != 0).all()


SPARSE = ["--backbone", "SmallConvNet", "--backbone.width", "8", "--approach", "LwF", "--exits", "sdn"]
SPARSE += ["--sparse.density", "0.2"]


@pytest.fixture(scope="module")
def sparse_run(digits_run):
    return digits_run(*SPARSE, "--sparse.heads", "true", "--sparse.layers", "snip")


def test_a_finished_run_answers_as_it_did_and_so_do_its_exports(sparse_run, tmp_path):
    run = finished(sparse_run, "cpu")
    assert density_of(run.network) == pytest.approx(0.2, abs=0.01)
    samples, _ = run.objects.benchmark.seen(run.last_task)
    logits = run.trainer.predict(run.network, samples)
    torch.testing.assert_close(logits, sparse_run.outputs(1).logits)
    images = next(run.trainer.loader(samples).in_order(8))
    hidden, expected = images, logits[:, :8]
    for index, program in enumerate(export_stages(run.network)):
        hidden, found = program.module()(hidden)
        torch.testing.assert_close(found, expected[index], rtol=1e-4, atol=1e-4)
    save(EarlyExitModel(run.network, None, Confidence(0.5)), tmp_path / "model.pt", sparse_run.config)
    for fold in (False, True):
        model = load(tmp_path / "model.pt", "cpu", fold)
        torch.testing.assert_close(model.network(images), expected)
        assert torch.equal(
            model(images).predictions, EarlyExitModel(run.network, None, Confidence(0.5))(images).predictions
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sparse.density", "0"], "sparse.density is 0"),
        (["--sparse.density", "1.5"], "sparse.density is 1.5"),
        (
            ["--sparse.density", "0.0001"],
            "sparse.density is 0.0001; the weights of this network can be orthogonal from",
        ),
        (["--sparse.init", "other"], "sparse.init is 'other'"),
        (["--sparse.layers", "other"], "sparse.layers is 'other'"),
        (["--sparse.gain", "0"], "sparse.gain is 0"),
        (["--sparse.jacobian", "-1"], "sparse.jacobian is -1"),
        (["--sparse.heads", "true", "--approach", "LUCIR", "--memory.size", "20"], "sparse.heads is true, but"),
        (["--sparse.density", "0.02", "--sparse.heads", "true"], "a classifier of 16 features needs at least 0.0625"),
        (["--backbone.frozen", "all"], "the backbone SmallConvNet has no convolution or linear layer that learns"),
    ],
)
def test_mistakes_are_one_sentence(options, sentence, tmp_path, capsys):
    base = [
        "--benchmark",
        "Digits",
        "--benchmark.tasks",
        "2",
        "--training.epochs",
        "1",
        "--training.schedule",
        "constant",
    ]
    assert main(["run", *base, *SPARSE, *options, "--out", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err.strip()
    assert sentence in told
    assert "Traceback" not in told
    assert told.count("\n") == 0
    assert not (tmp_path / "runs").exists()


def test_whole_kernels_need_convolutions(toy_trainer, toy_benchmark):
    linear = Backbone((1, 6, 6), {"all": nn.Sequential(nn.Flatten(), nn.Linear(36, 8))})
    with pytest.raises(ConfigurationError, match="Backbone has no convolution that learns"):
        prepared(Sparse(0.5, kernels="whole"), toy_trainer, toy_benchmark().tasks[0], backbone=linear)


def test_wrong_values_are_refused_from_python_too():
    for options, name in (({"density": 0}, "density"), ({"init": "x"}, "init"), ({"gain": -1.0}, "gain")):
        with pytest.raises(ConfigurationError, match=rf"sparse\.{name} is"):
            Sparse(**{"density": 0.5, **options})


def test_only_plain_linear_heads_can_be_sparse():
    network = ExitNetwork(SmallConvNet((1, 6, 6)), classifier=GrowingCosine)
    with pytest.raises(ConfigurationError, match=r"sparse\.heads is true, but the approach answers with GrowingCosine"):
        Sparse(0.5, heads=True).prepare(network)


def test_preparing_again_changes_nothing():
    network = ExitNetwork(SmallConvNet((1, 6, 6)))
    Sparse(0.5).prepare(network)
    twin = copy.deepcopy(network)
    Sparse(0.5).prepare(twin)
    assert twin.state_dict().keys() == network.state_dict().keys()
