"""EWC: every Fisher against its definition in plain float64 loops, the penalty by hand, and what it leaves alone."""

import math

import pytest
import torch
from torch.func import functional_call

from cl_ac.approach import Batch
from cl_ac.approaches.ewc import EWC
from cl_ac.errors import ConfigurationError
from cl_ac.importance.fisher import batch_mean_fisher, per_sample_fisher, published_fisher
from cl_ac.importance.gradients import batch_gradients, flatten, per_sample_gradients, protected
from cl_ac.network import Exits


@pytest.fixture
def task(toy_benchmark):
    return toy_benchmark(validation=0)[1]


@pytest.fixture
def network(toy_network):
    """Three exits, classes of two tasks, batch statistics that are not the initial ones."""
    network = toy_network("sdn", (2, 2))
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(2 * torch.randn(16, 1, 6, 6) + 0.5)
    return network.eval()


def log_likelihood_gradient(network, exit_index, image, label) -> torch.Tensor:
    """∂ log p(label) / ∂θ of one image by plain autograd in float64: [P]."""
    parameters = list(protected(network).values())
    log_probability = network(image[None])[exit_index, 0].double().log_softmax(0)[label]
    gradients = torch.autograd.grad(log_probability, parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).double()


def fisher_by_definition(network, images, weights) -> torch.Tensor:
    """`mean_x Σ_y weights[e, x, y] (∂ log p(y|x))²`, one sample, exit and class at a time: [E, P]."""
    rows = []
    for index in range(len(network)):
        row = 0
        for sample, image in enumerate(images):
            for label in range(network.num_classes):
                row = row + weights[index, sample, label] * log_likelihood_gradient(network, index, image, label) ** 2
        rows.append(row / len(images))
    return torch.stack(rows)


def inputs(trainer, samples) -> torch.Tensor:
    return torch.cat(list(trainer.loader(samples).in_order(100)))


@pytest.mark.parametrize("kind", ["exact", "empirical", "max_pred", "sampled"])
def test_per_sample_fisher_is_the_mean_of_squared_gradients(toy_trainer, network, task, kind):
    images = inputs(toy_trainer, task.train)
    with torch.no_grad():
        probabilities = network(images).double().softmax(-1)
    one_hot = torch.nn.functional.one_hot
    if kind == "exact":
        weights = probabilities
    elif kind == "empirical":
        weights = one_hot(task.train.targets, 4).expand(3, -1, -1)
    elif kind == "max_pred":
        weights = one_hot(probabilities.argmax(-1), 4)
    else:
        streams = [toy_trainer.generator("fisher labels", task.index, depth) for depth in (2, 1, 0)]
        drawn = [
            torch.multinomial(p.float(), 1, generator=s)[:, 0] for p, s in zip(probabilities, streams, strict=True)
        ]
        weights = one_hot(torch.stack(drawn), 4)
    expected = fisher_by_definition(network, images, weights)
    actual = per_sample_fisher(kind, task, network, toy_trainer).double()
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-6 * expected.max().item())
    assert expected[-1].min() >= 0
    assert expected[-1].max() > 0


def test_sampled_labels_give_the_exact_fisher_on_average(toy_trainer, network, toy_benchmark):
    few = toy_benchmark(validation=0, per_class=4)[1]
    exact = per_sample_fisher("exact", few, network, toy_trainer).sum(1)
    draws = []
    for seed in range(40):
        toy_trainer.seed = seed
        draws.append(per_sample_fisher("sampled", few, network, toy_trainer).sum(1))
    draws = torch.stack(draws)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 4 * error).all()


def test_chunks_do_not_change_the_fisher(toy_trainer, network, task, monkeypatch):
    whole = per_sample_fisher("max_pred", task, network, toy_trainer)
    monkeypatch.setattr("cl_ac.importance.gradients.CHUNK", 5 * flatten(network).numel())
    assert torch.allclose(per_sample_fisher("max_pred", task, network, toy_trainer), whole, rtol=1e-4, atol=1e-9)


def test_shallow_exits_protect_their_prefix_only(toy_trainer, network, task):
    fisher = per_sample_fisher("empirical", task, network, toy_trainer)
    first = sum(p.numel() for p in network.backbone.stages[0].parameters())
    assert (fisher[0, :first] > 0).any()
    assert (fisher[0, first:] == 0).all()
    assert (fisher[1, first:] > 0).any()


def test_detached_exits_protect_nothing(toy_trainer, toy_network, task):
    detached = toy_network(Exits(["first"], [0.5], detach=True), (2, 2)).eval()
    fisher = per_sample_fisher("empirical", task, detached, toy_trainer)
    assert (fisher[0] == 0).all()
    assert (fisher[1] > 0).any()


def test_batch_mean_squares_after_averaging(toy_trainer, network, task):
    order = torch.randperm(len(task.train), generator=toy_trainer.generator("fisher order", task.index))
    samples = task.train.select(order)
    images, size = inputs(toy_trainer, samples), toy_trainer.training.batch_size
    expected = torch.zeros(3, flatten(network).numel(), dtype=torch.float64)
    batches = list(torch.arange(len(samples)).split(size))
    for batch in batches:
        for index in range(3):
            gradients = [log_likelihood_gradient(network, index, images[i], samples.targets[i]) for i in batch]
            expected[index] += torch.stack(gradients).mean(0) ** 2 / len(batches)
    actual = batch_mean_fisher(task, network, toy_trainer).double()
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-6 * expected.max().item())


def test_published_fisher_is_almost_the_last_batch_and_moves_batch_statistics(toy_trainer, network, task):
    size, count = 8, 24  # 24 of the task's 24 images
    twin = network.frozen_copy().requires_grad_(True).train()
    squares = []
    stream = toy_trainer.generator("fisher order", task.index)
    for batch in toy_trainer.loader(task.train).shuffled(size, count, stream, task):
        logits = twin(batch.images)
        losses = torch.stack([torch.nn.functional.cross_entropy(z, z.argmax(1)) for z in logits])
        squares.append(batch_gradients(twin, losses) ** 2)
    expected = size * (squares[0] / count**3 + squares[1] / count**2 + squares[2] / count)
    before = network.backbone.stages[0][1].running_mean.clone()
    actual = published_fisher(task, network, toy_trainer)
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-7 * expected.max().item())
    assert not torch.equal(network.backbone.stages[0][1].running_mean, before)
    assert not network.training


def test_block_scope_keeps_the_stage_of_each_ac_and_all_for_the_final_exit(toy_trainer, network, task):
    prefix = EWC(fisher="max_pred").information(task, network, toy_trainer)
    block = EWC(fisher="max_pred", scope="block").information(task, network, toy_trainer)
    first, second = (sum(p.numel() for p in stage.parameters()) for stage in network.backbone.stages[:2])
    assert torch.equal(block[0], prefix[0])
    assert (block[1, :first] == 0).all()
    assert torch.equal(block[1, first : first + second], prefix[1, first : first + second])
    assert torch.equal(block[2], prefix[2])


@pytest.mark.parametrize(("alpha", "kept"), [(0.5, [0.5, 0.5]), (0.2, [0.2, 0.2]), (-1, [0.0, 0.5])])
def test_fisher_of_tasks_accumulates(toy_trainer, toy_network, toy_benchmark, alpha, kept):
    network, benchmark = toy_network("sdn", (2,)), toy_benchmark()
    approach, expected = EWC(alpha=alpha), 0
    for task, keep in zip(benchmark[:2], kept, strict=True):
        if task.index:
            network.grow(2, 0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1
        expected = keep * expected + (1 - keep) * per_sample_fisher("sampled", task, network, toy_trainer)
        approach.end_task(task, network, toy_trainer)
        assert torch.allclose(approach.penalty.importance, torch.as_tensor(expected), rtol=1e-6, atol=0)
        assert torch.equal(approach.penalty.anchor, flatten(network))


def test_online_ewc_adds_to_what_has_decayed(network, task, monkeypatch):
    approach = EWC(alpha=0.5, decay=0.9)
    for information in (2.0, 1.0):
        monkeypatch.setattr(approach, "information", lambda *_, value=information: torch.full((3, 4), value))
        approach.end_task(task, network, None)
    torch.testing.assert_close(approach.penalty.importance, torch.full((3, 4), 2.8))


def test_loss_is_cross_entropy_and_half_the_weighted_square(network, task):
    approach = EWC(strength=3.0)
    size = flatten(network).numel()
    importance = torch.rand(3, size)
    approach.penalty.fuse(importance, 0.0)
    approach.penalty.anchor_at(network)
    moved = 0.1 * torch.randn(size)
    with torch.no_grad():
        for parameter, step in zip(
            protected(network).values(), moved.split([p.numel() for p in protected(network).values()]), strict=True
        ):
            parameter += step.view_as(parameter)
    batch = Batch(torch.randn(5, 1, 6, 6), torch.tensor([2, 3, 3, 2, 2]), task)
    logits = network(batch.images).double().tolist()
    for index, loss in enumerate(approach.loss(network, batch).tolist()):
        entropy = 0.0
        for row, target in zip(logits[index], [2, 3, 3, 2, 2], strict=True):
            entropy += (math.log(math.exp(row[2]) + math.exp(row[3])) - row[target]) / 5
        squares = sum(f * d * d for f, d in zip(importance[index].tolist(), moved.tolist(), strict=True))
        assert loss == pytest.approx(entropy + 3.0 / 2 * squares, rel=1e-4)


def test_penalty_pulls_back_the_backbone_and_no_head(network):
    penalty = EWC().penalty
    penalty.fuse(torch.rand(3, flatten(network).numel()), 0.0)
    penalty.anchor_at(network)
    with torch.no_grad():
        for parameter in network.backbone.parameters():
            parameter += 1.0
    penalty(network).sum().backward()
    expected = 2 * penalty.importance.sum(0)
    actual = torch.cat([parameter.grad.flatten() for parameter in network.backbone.parameters()])
    assert torch.allclose(actual, expected, rtol=1e-4)
    assert all(parameter.grad is None for parameter in network.heads.parameters())


def test_anchor_is_a_copy(network):
    penalty = EWC().penalty
    penalty.anchor_at(network)
    before = penalty.anchor.clone()
    with torch.no_grad():
        next(network.backbone.parameters()).add_(1.0)
    assert torch.equal(penalty.anchor, before)


def test_gradients_of_a_sample_do_not_depend_on_the_others(network):
    images, targets = torch.randn(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)

    def objective(logits, target):
        return logits.gather(0, target[None])[0]

    together = per_sample_gradients(network, 1, images, objective, targets)
    alone = torch.cat([per_sample_gradients(network, 1, image[None], objective, targets[:1]) for image in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-6)
    assert not together.requires_grad
    parameters = {name: p.detach() for name, p in protected(network).items()}
    assert torch.allclose(functional_call(network, parameters, (images,)), network(images))


def test_alpha_outside_its_range_is_refused():
    with pytest.raises(ConfigurationError, match=r"alpha is 1\.5"):
        EWC(alpha=1.5)
    with pytest.raises(ConfigurationError, match=r"decay is -1.*alpha"):
        EWC(decay=-1)
