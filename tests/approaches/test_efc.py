"""EFC: the empirical feature matrix, the drift of prototypes, and what is trained on what."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.efc import EFC
from cl_ac.classifiers.prototypes import linear_logits, reduced
from cl_ac.data.batches import Batch
from cl_ac.data.seeding import generator
from cl_ac.importance.features import feature_importance, nearness
from cl_ac.losses import elastic_distance
from cl_ac.network import batch_norms


@pytest.fixture
def second_task(toy_network, toy_benchmark, toy_trainer):
    """An approach after one task, a network that has moved on, and a batch of the second task."""

    def make(**options):
        approach, network, tasks = EFC(**options), toy_network("sdn", (2,)).eval(), toy_benchmark().tasks
        approach.end_task(tasks[0], network, toy_trainer)
        network.grow(2, 0)
        with torch.no_grad():
            for parameter in network.backbone.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        train = tasks[1].train
        images = toy_trainer.augmentation.apply(train.images)
        again = Batch(images[::4], train.targets[::4], tasks[1])
        return approach, network, Batch(images, train.targets, tasks[1], replay=(again,), stream=partial(generator, 0))

    return make


def test_the_feature_matrix_by_definition():
    # With W = I and p = (1/2, 1/2) the rows less their mean are ±(1/2, −1/2).
    expected = torch.tensor([[0.25, -0.25], [-0.25, 0.25]])
    torch.testing.assert_close(feature_importance(torch.zeros(1, 3, 2))[0], expected)
    torch.manual_seed(0)
    weight, features = torch.randn(4, 3).double(), torch.randn(6, 3).double()
    logits = features @ weight.T
    matrix = torch.zeros(3, 3).double()
    for probabilities in logits.softmax(1):
        apart = weight - probabilities @ weight
        matrix += (apart.T * probabilities) @ apart / 6
    kept = feature_importance(logits[None])
    torch.testing.assert_close(weight.T @ kept[0].double() @ weight, matrix, rtol=1e-5, atol=1e-6)
    moved = torch.randn(5, 3).double()
    expected = torch.einsum("bi,ij,bj->b", moved, matrix, moved).mean().float()
    torch.testing.assert_close(elastic_distance((moved @ weight.T)[None], kept)[0], expected)


def test_loss_by_definition(second_task):
    approach, network, batch = second_task(strength=7.0, damping=0.3, replay=10)
    loss, teacher, again = approach.loss(network, batch), approach.teacher.network, batch.replay[0]
    chosen = approach.prototypes.draw(10 - len(again), batch)
    drawn = approach.prototypes.gaussian(chosen, 1e-5, batch)
    for index, head in enumerate(network.heads):
        new, old = (each.heads[index].reduce(each.hidden(batch.images)[index]) for each in (network, teacher))
        plain = F.cross_entropy(head.alone(new)[:, 2:], batch.targets - 2)
        moves = teacher.heads[index].alone(new) - teacher.heads[index].alone(old)
        measured = ((moves @ approach.importance[index]) * moves).sum(1).mean()
        squares = (new - old).square().flatten(1).sum(1).mean()
        mixed = head.alone(torch.cat([drawn[index], head.reduce(network.hidden(again.images)[index])]))
        balanced = F.cross_entropy(mixed, torch.cat([approach.prototypes.targets[chosen], again.targets]))
        torch.testing.assert_close(loss[index], plain + 7 * measured + 0.3 * squares + balanced, rtol=1e-4, atol=1e-5)


def test_features_are_held_where_old_answers_change(second_task):
    approach, _, batch = second_task(damping=0.0)
    # Two rows that differ in one direction: what keeps their difference costs nothing.
    head = approach.teacher.network.heads[-1].classifier
    apart = (head.new_weight[1] - head.new_weight[0])[None]
    values = reduced(approach.teacher.network, batch.images)
    other = torch.randn(1, apart.shape[1], generator=torch.Generator().manual_seed(0))
    other -= (other @ apart.T) / (apart @ apart.T) * apart
    costs = [approach.consolidation([*values[:-1], values[-1] + step], values)[-1] for step in (other, apart)]
    torch.testing.assert_close(costs[0], torch.zeros(()), atol=1e-6, rtol=0)
    assert costs[1] > 1e-4


def test_prototypes_follow_the_drift_of_near_samples(second_task, toy_trainer):
    # Samples at logits (0, 0) and (4, 0), prototypes at both: the nearer sample tells nearly all.
    logits, importance = torch.tensor([[[0.0, 0.0], [4.0, 0.0]]]), torch.eye(2)[None]
    ratio = torch.tensor(1 / (2 * 0.2**2)).exp()
    expected = torch.tensor([[ratio, 1.0], [1.0, ratio]]) / (1 + ratio)
    torch.testing.assert_close(nearness(logits, logits, importance, 0.2)[0], expected)
    approach, network, batch = second_task(sigma=1e6)
    before, old = [means.clone() for means in approach.prototypes.means], approach.teacher.network
    approach.follow(batch.task, network, toy_trainer)
    # So wide that every sample tells as much: all means move by the mean drift.
    values = zip(reduced(network, batch.images), reduced(old, batch.images), strict=True)
    for means, was, (new, known) in zip(approach.prototypes.means, before, values, strict=True):
        torch.testing.assert_close(means - was, (new - known).mean(0).expand_as(was), rtol=1e-4, atol=1e-5)


def test_after_the_first_task_rates_fall_and_batch_norm_stays(second_task, toy_network):
    approach, network, batch = second_task(later_lr=0.25)
    assert [group.lr_scale for group in approach.learns(network)] == [0.25]
    assert [group.lr_scale for group in approach.learns(toy_network())] == [1.0]
    statistics = [layer.running_mean.clone() for layer in batch_norms(network)]
    approach.loss(network.train(), batch)
    assert all(torch.equal(a.running_mean, b) for a, b in zip(batch_norms(network), statistics, strict=True))


def test_new_images_take_their_share_of_the_last_term(toy_benchmark):
    approach, tasks = EFC(replay=64), toy_benchmark().tasks
    assert approach.training_set(tasks[0]).replay == ()
    assert [approach.training_set(task).replay for task in tasks[1:]] == [(32,), (21,)]


def test_consolidated_features_move_less(toy_learn, toy_network, toy_benchmark, toy_trainer):
    tasks, moves = toy_benchmark().tasks[:2], []
    for options in ({"strength": 0.0, "damping": 0.0}, {"strength": 1000.0}):
        approach, network = EFC(later_lr=1.0, **options), toy_network(sizes=())
        toy_learn(approach, network, tasks[:1])
        old = approach.teacher.network
        toy_learn(approach, network, tasks[1:])
        images = toy_trainer.augmentation.apply(tasks[0].train.images)
        with torch.no_grad():
            logits = [linear_logits(old, reduced(each, images)) for each in (old, network)]
        moves.append((logits[1] - logits[0]).norm().item())
    assert moves[1] < 0.5 * moves[0]
