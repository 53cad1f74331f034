"""DyER: branches that stay, auxiliary heads, and classifiers trained anew on balanced data."""

import math

import pytest
import torch

from cl_ac.approaches.dyer import DyER
from cl_ac.approaches.finetuning import FineTuning
from cl_ac.backbones.branching import branches_at, newest_features
from cl_ac.classifiers.analytic import ACIL, DSAL, RanPAC
from cl_ac.classifiers.fecam import FeCAM
from cl_ac.classifiers.fetril import FeTrIL
from cl_ac.classifiers.gaussian import Gaussian
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.compatibility import check
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.losses import auxiliary_cross_entropy
from cl_ac.memory import Memory
from cl_ac.network import ExitNetwork
from cl_ac.serving.finished import finished
from cl_ac.serving.model_file import load, save
from cl_ac.training import Training


@pytest.fixture
def begun(toy_backbone, toy_trainer, toy_benchmark):
    """Brings an approach to the begin of the second task, with a network with two ACs; returns both and the task."""

    def make(approach: DyER) -> tuple[DyER, ExitNetwork, object]:
        backbone = toy_backbone()
        approach.prepare(backbone)
        network = ExitNetwork(backbone, backbone.exits("sdn"))
        tasks = toy_benchmark().tasks
        for task in tasks[:2]:
            approach.expand(task, network, toy_trainer)
            network.grow(task.num_classes, 0)
            approach.begin_task(task, network, toy_trainer)
        return approach, network, tasks[1]

    return make


@pytest.fixture
def batch_of():
    def make(task) -> Batch:
        images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        return Batch(images, torch.tensor([0, 3, 2, 1, 3]), task)

    return make


def test_the_loss_is_that_of_all_classes_and_of_the_new_ones_on_new_features(begun, batch_of):
    approach, network, task = begun(DyER(auxiliary=0.5))
    batch = batch_of(task)
    network.eval()
    logits, features = network(batch.images).double(), newest_features(network, network.features(batch.images))
    expected = []
    for index, layer in enumerate(approach.auxiliary_heads.layers):
        outputs = features[index].double() @ layer.weight.double().T + layer.bias.double()
        assert outputs.shape == (5, 3)
        own = logits[index].log_softmax(-1)[range(5), [0, 3, 2, 1, 3]].mean()
        expected.append(-own - 0.5 * outputs.log_softmax(-1)[range(5), [0, 2, 1, 0, 2]].mean())
    torch.testing.assert_close(approach.loss(network, batch), torch.stack(expected).float())


def test_auxiliary_heads_and_the_newest_branch_learn_and_nothing_older(begun, batch_of):
    approach, network, task = begun(DyER())
    approach.loss(network, batch_of(task)).sum().backward()
    assert all(parameter.grad.any() for parameter in approach.auxiliary_heads.parameters())
    learned = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert not any(".branches.0." in name for name in learned)
    assert any(".branches.1." in name for name in learned)
    assert {id(p) for p in approach.auxiliary_heads.parameters()} <= {id(p) for p in approach.learns(network)}


def test_the_classifier_loss_reaches_heads_only_and_reads_divided_logits(begun, batch_of):
    approach, network, task = begun(DyER(temperature=4.0))
    batch = batch_of(task)
    network.eval()
    loss = approach.classifier_loss(network, batch)
    own = (network(batch.images) / 4).log_softmax(-1)[:, range(5), batch.targets]
    torch.testing.assert_close(loss, -own.mean(1))
    loss.sum().backward()
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(parameter.grad is not None for parameter in network.heads.parameters())


def test_it_forgets_less_than_fine_tuning_and_its_cost_grows_with_the_tasks(toy_run):
    directory = toy_run(DyER(classifier_epochs=10), "dyer", "sdn", memory=24)
    fine_tuned = toy_run(FineTuning(), "tuned", "sdn", memory=24)
    assert directory.accuracies()[-1, :2, -1].mean() > fine_tuned.accuracies()[-1, :2, -1].mean()
    costs = [directory.outputs(task).cost for task in range(3)]
    # Of n branches: n backbones, and a final head of 4 n features and 2 n classes.
    backbone = costs[0].plain - 4 * 2
    assert [cost.plain for cost in costs] == [n * backbone + 4 * n * 2 * n for n in (1, 2, 3)]


@pytest.mark.parametrize("epochs", [0, 2])
def test_classifiers_are_drawn_anew_only_where_they_are_trained_anew(begun, toy_trainer, epochs):
    approach, network, task = begun(DyER(classifier_epochs=epochs))
    approach.memory = Memory(size=8)
    approach.memory.store(task.train)
    before = network.heads[-1].classifier.weight.detach().clone()
    backbone = {name: value.clone() for name, value in network.backbone.state_dict().items() if hasattr(value, "clone")}
    approach.end_task(task, network, toy_trainer)
    assert torch.equal(before, network.heads[-1].classifier.weight) is (epochs == 0)
    assert all(torch.equal(value, network.backbone.state_dict()[name]) for name, value in backbone.items())
    assert not len(approach.auxiliary_heads)


def test_nearest_means_read_all_branches(toy_run):
    directory = toy_run(DyER(classifier_epochs=1), "means", "sdn", memory=12, classifier=NearestMean())
    assert directory.outputs(2).logits.isfinite().all()


@pytest.mark.parametrize("classifier", [Gaussian, FeCAM, ACIL, DSAL, RanPAC, FeTrIL])
def test_statistics_that_added_features_would_outgrow_are_refused_before_training(toy_benchmark, classifier):
    settings = toy_benchmark(), Training(), Memory(size=12)
    check(FineTuning(), *settings, classifier=classifier())
    with pytest.raises(ConfigurationError, match=f"{classifier.__name__} keeps statistics .* DyER adds features"):
        check(DyER(), *settings, classifier=classifier())


def test_a_finished_run_answers_early_from_its_folder_and_from_a_file(digits_run, tmp_path):
    options = ["--approach", "DyER", "--approach.classifier_epochs", "1", "--memory.size", "20", "--exits", "sparse"]
    directory = digits_run(*options, "--backbone", "SmallConvNet", "--backbone.width", "4")
    run = finished(directory, "cpu")
    assert branches_at(run.network) == [2, 2]
    images = run.trainer.augmentation.apply(run.last_task.test.images[:20])
    expected = run.network(images)
    stored = directory.outputs(1)
    torch.testing.assert_close(expected, stored.logits[:, stored.tasks == 1][:, :20])
    model = EarlyExitModel(run.network, run.objects.approach, Confidence((2.0, 0.0)), fold=True)
    save(model, tmp_path / "model.pt", directory.config)
    loaded = load(tmp_path / "model.pt", "cpu")
    for each in (model, loaded):
        assert torch.equal(each(images).predictions, expected[-1].argmax(-1))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigurationError, match=r"DyER\.temperature 0; .* the others above 0"):
        DyER(temperature=0)


def test_auxiliary_heads_take_all_old_classes_for_one():
    outputs = torch.tensor([[[2.0, 0, 1], [0, 3, 0], [1, 1, 0]]]).repeat(2, 1, 1)
    outputs[1] *= 2
    found = auxiliary_cross_entropy(outputs, torch.tensor([3, 10, 11]), slice(10, 12))
    rows = [[math.exp(value) for value in row] for row in ([2, 0, 1], [0, 3, 0], [1, 1, 0])]
    first = -sum(math.log(row[index] / sum(row)) for index, row in enumerate(rows)) / 3
    assert found[0].item() == pytest.approx(first)
    assert found[1] != found[0]
