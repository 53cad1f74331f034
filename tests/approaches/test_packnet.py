"""PackNet: each weight belongs to one task."""

import pytest
import torch

from cl_ac.approaches.packnet import FREE, PackNet
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.errors import ConfigurationError
from cl_ac.exits.model import EarlyExitModel
from cl_ac.exits.rules import Confidence
from cl_ac.importance.gradients import protected
from cl_ac.importance.holding import split


@pytest.fixture
def images():
    return torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def learned(toy_network, toy_learn, toy_benchmark):
    """Learns the first `count` tasks; returns the network and the approach."""

    def learn(count: int, exits="sdn", **options):
        network, approach = toy_network(exits, ()), PackNet(**{"retrain_epochs": 1, **options})
        toy_learn(approach, network, toy_benchmark().tasks[:count])
        return network, approach

    return learn


def test_the_smallest_weights_of_a_layer_are_given_up(toy_network, toy_benchmark, toy_trainer):
    network, approach = toy_network(), PackNet(prune=0.5)
    approach.begin_task(toy_benchmark()[0], network, toy_trainer)
    name, weight = next((name, value) for name, value in protected(network).items() if value.ndim > 1)
    with torch.no_grad():
        weight.zero_()
        weight.view(-1)[:4] = torch.tensor([0.1, 0.5, -0.9, 0.2])
    # All but four of the 36 weights belong to another task.
    owners = split(network, approach.owner)
    owners[name].fill_(7).view(-1)[:4] = FREE
    assert approach.claimed(3, network)[name].view(-1)[:5].tolist() == [FREE, 3, 3, FREE, 7]


def test_each_weight_belongs_to_one_task_and_the_rest_is_zero(learned):
    network, approach = learned(2, prune=0.5)
    values = torch.cat([value.detach().flatten() for value in protected(network).values()])
    assert (values[approach.owner == FREE] == 0).all()
    weights = torch.cat(
        [owner.flatten() for name, owner in split(network, approach.owner).items() if protected(network)[name].ndim > 1]
    )
    shares = weights.add(1).bincount() / len(weights)
    assert shares.tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_old_tasks_answer_as_ever_bit_for_bit(learned, toy_learn, toy_benchmark, images):
    network, approach = learned(1)
    network.eval()
    before, logits = approach.task_network(network, 0), approach.answer_in_task(network, images, 0)
    toy_learn(approach, network, toy_benchmark().tasks[1:])
    network.eval()
    after = approach.task_network(network, 0)
    for name, value in before.backbone.state_dict().items():
        assert torch.equal(value, after.backbone.state_dict()[name]), name
    for old, new in zip(before.heads, after.heads, strict=True):
        assert torch.equal(old.classifier.weight, new.classifier.weight[:2])
        assert torch.equal(old.classifier.bias, new.classifier.bias[:2])
    # A product with more rows may round otherwise.
    torch.testing.assert_close(approach.answer_in_task(network, images, 0), logits)
    assert not torch.allclose(network(images)[..., :2], logits)


def test_batch_statistics_are_those_from_before_pruning(learned):
    whole, retrained = (learned(1, retrain_epochs=epochs)[0].backbone for epochs in (0, 2))
    for name, value in whole.named_buffers():
        assert torch.equal(value, retrained.get_buffer(name)), name
    assert not all(torch.equal(value, retrained.get_parameter(name)) for name, value in whole.named_parameters())


def test_later_tasks_learn_with_what_is_free(learned, toy_learn, toy_benchmark):
    network, approach = learned(1)
    before = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    owners = {name: owner == FREE for name, owner in split(network, approach.owner).items()}
    toy_learn(approach, network, toy_benchmark().tasks[1:2])
    for name, value in network.backbone.state_dict().items():
        changed = value != before[name]
        free = owners.get(f"backbone.{name}", torch.zeros_like(changed))
        assert not changed[~free].any(), name
    assert any((value != before[name]).any() for name, value in network.backbone.state_dict().items())


def test_an_unknown_task_is_answered_by_the_networks_of_all(learned, images):
    network, approach = learned(3)
    network.eval()
    answers = approach.answer(network, images)
    for task in range(3):
        assert torch.equal(answers[..., 2 * task : 2 * task + 2], approach.answer_in_task(network, images, task))


def test_the_network_of_a_task_leaves_early(learned, images):
    network, approach = learned(2)
    network.eval()
    alone = approach.task_network(network, 0)
    model = EarlyExitModel(alone, None, Confidence((2.0, 2.0, 0.0)))
    expected = approach.answer_in_task(network, images, 0)[-1].argmax(-1)
    assert torch.equal(model(images, torch.zeros(6, dtype=torch.int64)).predictions, expected)
    with pytest.raises(ConfigurationError, match="a network for each task"):
        EarlyExitModel(network, approach, Confidence())


def test_the_cost_is_that_of_all_networks(toy_run):
    directory = toy_run(PackNet(retrain_epochs=1), exits="sdn")
    heads = 2 * 3 * 4  # further rows of the final exit add little
    first, last = (directory.outputs(task).cost.plain for task in (0, 2))
    assert 3 * first <= last < 3 * (first + heads)


def test_another_classifier_is_refused(toy_run):
    with pytest.raises(ConfigurationError, match="leave classifier out"):
        toy_run(PackNet(), classifier=NearestMean())


@pytest.mark.parametrize("options", [{"prune": 1.0}, {"prune": 0.0}, {"retrain_epochs": -1}])
def test_impossible_settings_are_named(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        PackNet(**options)
