import pytest
import torch

from cl_ac.approach import Approach
from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.backbones.vit import ViT
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.data.seeding import global_stream
from cl_ac.efficiency.finetune import SparseTuning, finetuned
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork


@pytest.fixture
def network() -> ExitNetwork:
    with global_stream(0, "backbone"):
        backbone = ViT((1, 6, 6), width=8, depth=2, heads=2)
    network = ExitNetwork(backbone, backbone.exits("ln"))
    network.grow(2, 0)
    network.train_old_rows(False)
    return network.eval()


def distance(network: ExitNetwork, other: ExitNetwork, images: torch.Tensor) -> float:
    with torch.no_grad():
        return (network(images).softmax(-1) - other(images).softmax(-1)).abs().mean().item()


def test_answers_stay_while_activations_become_relu(network, toy_benchmark, toy_trainer):
    task = toy_benchmark()[0]
    images = toy_trainer.augmentation.apply(task.test.images)
    approach = Approach()
    at_once = finetuned(network, approach, task.train, task, toy_trainer, SparseTuning(1, lr=1e-9), Sparsify("l1", 0.0))
    trained = finetuned(network, approach, task.train, task, toy_trainer, SparseTuning(20, 3e-3), Sparsify("l1", 0.0))
    assert {each.activation for each in find_feed_forwards(trained).values()} == {"relu"}
    assert {each.activation for each in find_feed_forwards(network).values()} == {"gelu"}
    assert distance(trained, network, images) < 0.7 * distance(at_once, network, images)


def test_features_stay_where_a_classifier_reads_them(network, toy_benchmark, toy_trainer):
    task, approach = toy_benchmark()[0], Approach()
    images = toy_trainer.augmentation.apply(task.test.images)
    approach.inference = NearestMean()
    turned = []
    for epochs, lr in ((1, 1e-9), (20, 3e-3)):
        made = finetuned(
            network, approach, task.train, task, toy_trainer, SparseTuning(epochs, lr), Sparsify("l1", 0.0)
        )
        pairs = zip(made.features(images), network.features(images), strict=True)
        turned.append(sum(1 - torch.cosine_similarity(new, old).mean().item() for new, old in pairs))
    assert turned[1] < turned[0]


def test_labels_are_learned_on_request(network, toy_benchmark, toy_trainer):
    task = toy_benchmark()[0]
    images = toy_trainer.augmentation.apply(task.train.images)
    tuning = SparseTuning(40, 0.01, target="labels")
    made = finetuned(network, Approach(), task.train, task, toy_trainer, tuning, Sparsify("l1", 0.0))

    def right(answers: ExitNetwork) -> float:
        return (answers(images)[-1].argmax(-1) == task.train.targets).double().mean().item()

    assert right(made) > max(0.7, right(network))


def test_no_epochs_leave_the_network_alone(network, toy_benchmark, toy_trainer):
    task = toy_benchmark()[0]
    images = toy_trainer.augmentation.apply(task.test.images)
    made = finetuned(network, Approach(), task.train, task, toy_trainer, SparseTuning(0), Sparsify("hoyer"))
    assert torch.equal(made(images), network(images))
    assert made is not network


def test_wrong_settings_are_one_sentence():
    with pytest.raises(ConfigurationError, match=r"finetune has epochs -1"):
        SparseTuning(-1)
