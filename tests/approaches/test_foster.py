"""FOSTER: what the joint classifier begins as, the two losses, and the one network that is left."""

import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.foster import FOSTER
from cl_ac.data.batches import Batch
from cl_ac.data.samples import concatenate
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import Exits
from cl_ac.training import Training


@pytest.fixture
def begun(toy_network, toy_trainer, toy_benchmark):
    """An approach at the begin of the second task, with a network with two ACs whose mixes of pooling differ."""

    def make(approach: FOSTER, exits: Exits | str = "sdn"):
        first, second, _ = toy_benchmark().tasks
        network = toy_network(exits)
        approach.memory = Memory(per_class=3)
        approach.choose_exemplars(first, network, toy_trainer)
        approach.end_task(first, network, toy_trainer)
        network.grow(2, 0)
        approach.begin_task(second, network, toy_trainer)
        return approach, network, second

    return make


@pytest.fixture
def batch_of():
    def make(task) -> Batch:
        images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
        return Batch(images, torch.tensor([0, 3, 2, 1, 3]), task)

    return make


@pytest.mark.parametrize("exits", ["sdn", Exits(["first", "second"], [0.5, 0.5], cascade=True)])
def test_the_joint_classifier_begins_as_the_old_one(begun, batch_of, exits):
    approach, network, task = begun(FOSTER(), exits)
    images = batch_of(task).images
    network.eval()
    for layer in approach.joint.layers:
        layer.weight.data[:2, layer.in_features // 2 :] = 0  # of old classes, on the new features
    joint, own, old = approach.boosted(network, images)
    assert joint.shape == own.shape == (3, 5, 4)
    torch.testing.assert_close(joint[..., :2], old)


def test_boosting_is_aligned_and_distilled_and_trains_the_own_heads(begun, batch_of):
    approach, network, task = begun(FOSTER(strength=0.5, temperature=3.0))
    batch = batch_of(task)
    network.eval()
    joint, own, old = (value.double() for value in approach.boosted(network, batch.images))
    # 3 exemplars of each old class, and all images of each new one.
    counts = [3, 3, *(int((task.train.targets == target).sum()) for target in (2, 3))]
    weights = torch.tensor([0.04 / (1 - 0.96**count) for count in counts], dtype=torch.float64)
    weights *= 4 / weights.sum()
    rows, targets = range(5), batch.targets
    expected = -(joint / weights).log_softmax(-1)[:, rows, targets] - own.log_softmax(-1)[:, rows, targets]
    expected -= 0.5 * ((old / 3).softmax(-1) * (joint[..., :2] / 3).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(approach.loss(network, batch).double(), expected.mean(1), rtol=1e-5, atol=1e-5)


def test_the_copy_and_the_joint_classifier_learn_and_not_the_old_network(begun, batch_of):
    approach, network, task = begun(FOSTER())
    approach.loss(network, batch_of(task)).sum().backward()
    assert all(parameter.grad.any() for parameter in approach.joint.parameters())
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.numel())
    assert all(parameter.grad is None for parameter in approach.teacher.parameters())
    assert {id(p) for p in approach.joint.parameters()} <= {id(p) for p in approach.learns(network)}


def test_one_network_is_left_that_says_what_both_said(begun, toy_trainer):
    approach, network, task = begun(FOSTER(compression_epochs=40, compression_beta=0.0))
    old = approach.teacher.network.state_dict()
    joint, *_ = approach.boosted(network.eval(), toy_trainer.augmentation.apply(task.train.images))
    shapes = {name: value.shape for name, value in network.state_dict().items() if hasattr(value, "shape")}
    approach.choose_exemplars(task, network, toy_trainer)
    assert {name: value.shape for name, value in network.state_dict().items() if hasattr(value, "shape")} == shapes
    said = network.eval()(toy_trainer.augmentation.apply(task.train.images))
    assert (said[-1].argmax(-1) == joint[-1].argmax(-1)).float().mean() > 0.9
    assert torch.equal(old["heads.2.classifier.new_weight"], approach.teacher.network.heads[2].classifier.new_weight)
    approach.end_task(task, network, toy_trainer)
    assert not len(approach.joint)
    assert approach.teacher.network.num_classes == 4


def test_both_stages_learn_from_the_same_samples(begun, toy_trainer, monkeypatch):
    approach, network, task = begun(FOSTER(compression_epochs=1))
    fits = []
    monkeypatch.setattr(type(toy_trainer), "fit", lambda self, fit, **_: fits.append(fit))
    approach.choose_exemplars(task, network, toy_trainer)
    (compression,) = fits
    assert compression.training.weight_decay == 0
    expected = concatenate(task.train, approach.memory.samples.select(approach.memory.targets < 2))
    assert torch.equal(compression.data.samples.targets, expected.targets)


def test_it_forgets_less_than_fine_tuning_at_the_same_cost(toy_run):
    training = Training(epochs=6, batch_size=8, lr=0.05, momentum=0.9, schedule="constant")
    directory = toy_run(FOSTER(compression_epochs=6), "foster", memory=24, training=training)
    tuned = toy_run(FineTuning(), "tuned", training=training)
    assert directory.accuracies()[-1, :2, -1].mean() > tuned.accuracies()[-1, :2, -1].mean()
    assert directory.outputs(2).cost == tuned.outputs(2).cost


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"boosting_beta": 1.0}, r"FOSTER\.boosting_beta is 1, .* below 1"),
        ({"compression_epochs": 0}, r"FOSTER\.compression_epochs 0; .* at least 1"),
        ({"temperature": 0.0}, r"FOSTER\.temperature 0 and .* above 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        FOSTER(**options)
