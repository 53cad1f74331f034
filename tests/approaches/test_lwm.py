"""LwM: attention maps of the previous network's class, and what learns from their distance."""

import pytest
import torch

from cl_ac.approaches.lwm import LwM, explain, explained
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy, global_distillation
from cl_ac.network import Backbone, ExitNetwork, Exits


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_trainer):
    """Makes an approach at its second task, with a student whose backbone has moved, and a batch."""

    def make(exits="sdn", move=0.3, **options):
        approach, network, tasks = LwM(**options), toy_network(exits, (2,)), toy_benchmark().tasks
        approach.teacher.update(network)
        network.grow(2, 0)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter.add_(move * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        data = tasks[1].train
        return approach, network.eval(), Batch(toy_trainer.augmentation.apply(data.images), data.targets, tasks[1])

    return make


def grad_cam(network, index, image, target):
    """The map of one image alone, of length 1, by definition."""
    end = network.bounds[index][1]
    stage = min(end, 2) - 1
    features = network.stage_outputs(image[None])[stage].detach().requires_grad_()
    value = features
    for later in network.backbone.stages[stage + 1 : end]:
        value = later(value)
    (gradient,) = torch.autograd.grad(network.heads[index](value)[0, target], features)
    total = sum(gradient[0, channel].mean() * features[0, channel] for channel in range(features.shape[1]))
    positive = total.detach().clamp(min=0).flatten()
    return positive / positive.norm()


@pytest.mark.parametrize("exits", ["sdn", None])
def test_loss_by_definition(exits, second_task, toy_network):
    approach, network, batch = second_task(exits or toy_network().exits, strength=0.5, attention=2.0)
    loss, logits, old_logits = approach.loss(network, batch), network(batch.images), approach.teacher(batch.images)
    expected = cross_entropy(logits, batch.targets, batch.task.classes)
    expected = (expected + 0.5 * global_distillation(logits, old_logits)).detach()
    for index in range(len(network)):
        for image, old in zip(batch.images, old_logits[index], strict=True):
            maps = [grad_cam(each, index, image, int(old.argmax())) for each in (network, approach.teacher.network)]
            expected[index] += 2.0 * (maps[0] - maps[1]).abs().sum() / len(batch)
    torch.testing.assert_close(loss, expected)


def test_only_the_student_learns_from_the_distance(second_task):
    approach, network, batch = second_task(strength=0.0)
    with_attention = approach.loss(network, batch).sum()
    approach.attention = 0.0
    (with_attention - approach.loss(network, batch).sum()).backward()
    # Of the last stage with a map, what follows has no weights.
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-6}
    assert {name for name, _ in network.backbone.named_parameters(prefix="backbone")} <= moved
    assert {f"heads.{index}.classifier.old_weight" for index in range(3)} <= moved
    assert all(parameter.grad is None for parameter in approach.teacher.parameters())


def test_the_distance_of_a_network_to_itself_is_zero(second_task):
    approach, network, batch = second_task(move=0.0, strength=0.0)
    expected = cross_entropy(network(batch.images), batch.targets, batch.task.classes)
    torch.testing.assert_close(approach.loss(network, batch), expected, rtol=1e-5, atol=1e-5)


def test_both_networks_explain_the_class_that_the_old_one_sees(second_task):
    approach, _, batch = second_task()
    old_logits, old_maps = explained(approach.teacher.network, batch.images)
    _, again = explain(approach.teacher.network, batch.images.requires_grad_(), old_logits.argmax(-1))
    _, others = explain(approach.teacher.network, batch.images, old_logits.argmin(-1))
    for index in range(3):
        torch.testing.assert_close(old_maps[index], again[index])
        assert not torch.allclose(old_maps[index], others[index])


def test_acs_that_only_read_teach_the_backbone_nothing(second_task):
    approach, network, batch = second_task(Exits(["first", "second"], [0.3, 0.6], detach=True))
    loss = approach.loss(network, batch)
    assert loss.isfinite().all()
    gradients = torch.autograd.grad(loss[:2].sum(), list(network.backbone.parameters()), allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_maps_with_channels_last_are_read_as_they_are(second_task, toy_benchmark):
    class ChannelsLast(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, hidden):
            return self.inner(hidden).permute(0, 2, 3, 1)

    _, network, batch = second_task(Exits(["second"], [0.5]))
    _, expected = explain(network, batch.images, None)
    network.backbone.stages[1] = ChannelsLast(network.backbone.stages[1])
    network.stage_layouts[1] = "channels_last"
    network.heads[0].pooling.layout = "channels_last"
    pool = network.backbone.stages[2]
    network.backbone.stages[2] = torch.nn.Sequential(Permuted(), pool)
    _, maps = explain(network, batch.images, None)
    for actual, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


class Permuted(torch.nn.Module):
    def forward(self, hidden):
        return hidden.permute(0, 3, 1, 2)


def test_needs_feature_maps(toy_benchmark, toy_trainer):
    network = ExitNetwork(Backbone((1, 6, 6), {"flat": torch.nn.Flatten()}))
    with pytest.raises(ConfigurationError, match="LwM distils attention over feature maps"):
        LwM().begin_task(toy_benchmark()[0], network, toy_trainer)
