"""MAS: importance against finite differences, the loss by hand."""

import pytest
import torch

from cl_ac.approach import Batch
from cl_ac.approaches.mas import MAS
from cl_ac.importance.gradients import flatten, protected
from cl_ac.losses import cross_entropy


def lengths(network, images, norm) -> torch.Tensor:
    """‖z‖² or ‖z‖ of each exit and image [E, B]."""
    squares = torch.stack([head(hidden) for head, hidden in zip(network.heads, network.hidden(images), strict=True)])
    squares = squares.square().sum(-1)
    return squares if norm == "squared" else squares.sqrt()


@pytest.mark.parametrize("norm", ["squared", "plain"])
@torch.no_grad()
def test_sensitivity_equals_finite_differences(toy_trainer, toy_network, toy_benchmark, norm):
    task = toy_benchmark(per_class=4, validation=0)[0]
    network = toy_network("sdn", (2,)).eval()
    images = torch.cat(list(toy_trainer.loader(task.train).in_order(100))).double()
    actual = MAS(norm=norm).sensitivity(task, network, toy_trainer)
    network.double()
    step, checked, start = 1e-6, 0, 0
    for parameter in protected(network).values():
        flat = parameter.view(-1)
        for position in range(0, flat.numel(), 7):
            value = flat[position].item()
            flat[position] = value + step
            above = lengths(network, images, norm)
            flat[position] = value - step
            below = lengths(network, images, norm)
            flat[position] = value
            expected = ((above - below) / (2 * step)).abs().mean(1)
            assert torch.allclose(actual[:, start + position].double(), expected, rtol=1e-3, atol=1e-5)
            checked += 1
        start += flat.numel()
    assert checked > 20


@pytest.mark.parametrize(("settings", "factor"), [({}, 1.0), ({"halved": True}, 0.5)])
def test_loss_adds_the_weighted_square_to_each_exit(settings, factor, toy_network, toy_benchmark):
    task, network = toy_benchmark()[1], toy_network("sdn", (2, 2)).eval()
    approach = MAS(strength=4.0, **settings)
    approach.penalty.fuse(torch.rand(3, flatten(network).numel()), 0.0)
    approach.penalty.anchor = flatten(network).detach() - 0.5
    batch = Batch(torch.randn(5, 1, 6, 6), torch.tensor([2, 3, 3, 2, 2]), task)
    expected = cross_entropy(network(batch.images), batch.targets, task.classes)
    expected = expected + 4.0 * factor * 0.25 * approach.penalty.importance.sum(1)
    assert torch.allclose(approach.loss(network, batch), expected, rtol=1e-5)


def test_importance_of_tasks_accumulates(toy_trainer, toy_network, toy_benchmark):
    network, benchmark, approach = toy_network("sdn", (2,)), toy_benchmark(), MAS(alpha=0.25)
    first = approach.sensitivity(benchmark[0], network, toy_trainer)
    approach.end_task(benchmark[0], network, toy_trainer)
    assert torch.allclose(approach.penalty.importance, 0.75 * first)
    network.grow(2, 0)
    second = approach.sensitivity(benchmark[1], network, toy_trainer)
    approach.end_task(benchmark[1], network, toy_trainer)
    assert torch.allclose(approach.penalty.importance, 0.25 * 0.75 * first + 0.75 * second)
