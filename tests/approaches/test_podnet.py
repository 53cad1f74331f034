"""PODNet: the NCA loss, the distillation of pooled outputs, and the balanced phase."""

import math

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.podnet import PODNet
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import Backbone, ExitNetwork


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_trainer):
    def make(exits):
        approach = PODNet(proxies=3)
        network = toy_network(exits, (2,), classifier=approach.build_classifier)
        tasks = toy_benchmark().tasks
        approach.memory = Memory(6)
        approach.choose_exemplars(tasks[0], network, toy_trainer)
        approach.end_task(tasks[0], network, toy_trainer)
        network.grow(2, 0)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        data = approach.training_set(tasks[1]).samples
        return approach, network.eval(), Batch(toy_trainer.augmentation.apply(data.images), data.targets, tasks[1])

    return make


def nca(rows, targets, margin):
    losses = []
    for row, y in zip(rows.tolist(), targets.tolist(), strict=True):
        others = math.log(sum(math.exp(value) for c, value in enumerate(row) if c != y))
        losses.append(max(0.0, others - row[y] + margin))
    return sum(losses) / len(losses)


def pooled(image):
    """Sums of squares of one image [channels, height, width] over width, then over height, of length 1."""
    squares = image.double() ** 2
    joined = torch.cat([squares.sum(2).flatten(), squares.sum(1).flatten()])
    return joined / joined.norm()


@pytest.mark.parametrize("exits", ["sdn", None])
def test_loss_by_definition(exits, second_task, toy_network):
    approach, network, batch = second_task(exits or toy_network().exits)
    loss, logits, teacher = approach.loss(network, batch), network(batch.images), approach.teacher.network
    outputs, old_outputs = network.stage_outputs(batch.images), teacher.stage_outputs(batch.images)
    features, old_features = network.features(batch.images), teacher.features(batch.images)
    # The maps below the three exits; the final one follows the second map of the only resolution.
    stages = [0, 1, 1][-len(network) :]
    expected = []
    for index, stage in enumerate(stages):
        cosine = F.cosine_similarity(features[index].double(), old_features[index].double()).mean().item()
        distances = [
            (pooled(a) - pooled(b)).norm().item() for a, b in zip(outputs[stage], old_outputs[stage], strict=True)
        ]
        distilled = 1.0 * (1 - cosine) + 3.0 * sum(distances) / len(distances)
        expected.append(nca(logits[index], batch.targets, 0.6) + math.sqrt(4 / 2) * distilled)
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_margin_does_not_train_the_scale(second_task):
    approach, network, batch = second_task("sdn")
    scale = network.heads[-1].classifier.scale
    logits = network(batch.images).detach() * (scale / scale.detach())
    (with_margin,) = torch.autograd.grad(approach.classification(network, logits, batch.targets)[-1], scale)
    # Few margins are met at the start, so the hinge is open: only the similarities pull at the scale.
    rows = logits.detach()[-1]
    own = rows.gather(1, batch.targets[:, None])[:, 0]
    others = rows.scatter(1, batch.targets[:, None], -torch.inf)
    expected = ((others.softmax(1) * rows).sum(1) - own) * (others.logsumexp(1) - own + 0.6 > 0)
    torch.testing.assert_close(with_margin, expected.mean())


def test_balanced_phase_trains_the_classifiers_on_exemplars_only(second_task, toy_trainer, monkeypatch):
    approach, network, batch = second_task("sdn")
    seen = []
    fit = toy_trainer.fit
    monkeypatch.setattr(toy_trainer, "fit", lambda each: (seen.append(each.data), fit(each)))
    backbone = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    rows = [head.classifier.old_weight.clone() for head in network.heads]
    network.train_old_rows(False)
    approach.choose_exemplars(batch.task, network, toy_trainer)
    approach.end_task(batch.task, network, toy_trainer)
    assert [len(data.samples) for data in seen] == [6]
    assert torch.bincount(seen[0].samples.targets, minlength=4).max() == 2
    assert all(torch.equal(value, backbone[name]) for name, value in network.backbone.state_dict().items())
    assert not any(torch.equal(head.classifier.old_weight, row) for head, row in zip(network.heads, rows, strict=True))


def test_needs_feature_maps(toy_benchmark, toy_trainer):
    vector = Backbone((1, 6, 6), {"flat": torch.nn.Flatten()})
    approach = PODNet()
    network = ExitNetwork(vector, classifier=approach.build_classifier)
    with pytest.raises(ConfigurationError, match="PODNet distils feature maps"):
        approach.begin_task(toy_benchmark()[0], network, toy_trainer)


def test_the_balanced_phase_takes_the_authors_epochs_and_rate_and_weighs_all_exits_the_same(
    second_task, toy_trainer, monkeypatch
):
    approach, network, batch = second_task("sdn")
    fits = []
    monkeypatch.setattr(toy_trainer, "fit", fits.append)
    approach.end_task(batch.task, network, toy_trainer)
    assert fits[0].training.epochs == 20
    assert fits[0].training.lr == 0.5 * toy_trainer.training.lr
    assert fits[0].exit_weights == [1.0, 1.0, 1.0]


def test_new_proxies_are_imprinted(second_task, toy_trainer):
    approach, network, batch = second_task("sdn")
    approach.begin_task(batch.task, network, toy_trainer)
    train = batch.task.train
    for head, features in zip(network.heads, toy_trainer.features(network, train), strict=True):
        classifier = head.classifier
        for index, proxies in enumerate(classifier.new_weight.detach().unflatten(0, (2, 3))):
            members = F.normalize(features[train.targets == 2 + index])
            nearest = (members @ F.normalize(proxies).T).argmax(1)
            assert nearest.unique().tolist() == [0, 1, 2]
            clusters = torch.stack([members[nearest == proxy].mean(0) for proxy in range(3)])
            length = classifier.old_weight.norm(dim=1).mean().detach()
            torch.testing.assert_close(proxies, clusters * length, rtol=1e-4, atol=1e-5)
