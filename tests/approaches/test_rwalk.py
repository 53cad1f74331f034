"""RWalk: the moving Fisher information, the scores of the way, and their sum."""

import pytest
import torch
from torch import nn

from cl_ac.approach import Batch
from cl_ac.approaches.rwalk import RWalk
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import flatten, protected
from cl_ac.losses import cross_entropy


class OneWeight(nn.Module):
    """What `flatten` asks of a network, with a single weight."""

    device = torch.device("cpu")

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.backbone = nn.Linear(1, 1, bias=False)
        self.backbone.weight.data.fill_(value)


def walk(approach, network, gradients, moves):
    """Steps of one weight by `moves`, where the task loss has `gradients`."""
    for gradient, move in zip(gradients, moves, strict=True):
        approach.before = flatten(network).detach()
        approach.gradient, approach.scale = torch.tensor([gradient]), torch.ones(1)
        with torch.no_grad():
            network.backbone.weight.add_(move)
        approach.end_step(network)


def test_a_score_is_the_fall_of_the_loss_over_the_way_in_the_metric_of_the_fisher(toy_benchmark):
    approach, network = RWalk(alpha=1.0, interval=1, damping=1e-9), OneWeight()
    approach.begin_task(toy_benchmark()[0], network, None)
    walk(approach, network, [-1.0], [0.1])
    # 0.1 / (½ · 1 · 0.1²)
    assert approach.fisher.item() == 1
    assert approach.task_score.item() == pytest.approx(20, rel=1e-5)


def test_intervals_are_summed_and_negative_ones_left_out(toy_benchmark):
    approach, network = RWalk(alpha=0.75, interval=2, damping=0.1), OneWeight(0.5)
    approach.begin_task(toy_benchmark()[0], network, None)
    walk(approach, network, [-1.0, -2.0, 1.0, 1.0, 3.0], [0.25, 0.5, 0.5, 0.25, -1.0])
    first, second = 0.75 * (1 + 4) / 2, 0.75 * 1 + 0.25 * 0.75 * (1 + 4) / 2
    score = (0.25 + 1.0) / (0.5 * first * 0.75**2 + 0.1)
    assert approach.fisher.item() == pytest.approx(second)
    assert approach.task_score.item() == pytest.approx(score)
    # The last step counts alone, though it is no whole interval.
    approach.end_task(toy_benchmark()[0], network, None)
    third = 0.75 * 9 + 0.25 * second
    assert approach.fisher.item() == pytest.approx(third)
    assert approach.score.item() == pytest.approx(score + 3.0 / (0.5 * third + 0.1))


def test_scores_of_tasks_are_halved_and_both_parts_have_a_maximum_of_1(toy_benchmark, toy_network):
    approach, network = RWalk(), toy_network("sdn", (2, 2))
    first, second = toy_benchmark().tasks[:2]
    size = flatten(network).numel()
    for task, score in ((first, 4.0), (second, 2.0)):
        approach.begin_task(task, network, None)
        approach.fisher = torch.linspace(0, 8, size)
        approach.task_score = torch.linspace(score, 0, size)
        approach.end_task(task, network, None)
    torch.testing.assert_close(approach.score, torch.linspace(3, 0, size))
    torch.testing.assert_close(approach.penalty.importance, torch.ones(1, size))


def test_squares_are_of_the_gradient_of_the_task_loss_of_all_exits(toy_network, toy_benchmark):
    task, network = toy_benchmark()[1], toy_network("sdn", (2, 2)).eval()
    approach, weights = RWalk(strength=5.0), torch.tensor([0.3, 0.6, 1.0])
    approach.begin_task(toy_benchmark()[0], network, None)
    approach.begin_task(task, network, None)
    approach.penalty.importance = torch.rand(1, flatten(network).numel())
    approach.penalty.anchor -= 0.5
    expected = 0
    for seed in range(2):
        torch.manual_seed(seed)
        batch = Batch(torch.randn(6, 1, 6, 6), torch.tensor([2, 3, 2, 3, 3, 2]), task)
        loss = (weights * cross_entropy(network(batch.images), batch.targets, task.classes)).sum()
        gradient = torch.autograd.grad(loss, list(protected(network).values()))
        expected = expected + torch.cat([part.flatten() for part in gradient]).square()
        (weights * approach.loss(network, batch)).sum().backward()
        approach.end_step(network)
    torch.testing.assert_close(approach.squares, expected, rtol=1e-4, atol=1e-8)


def test_a_strong_penalty_keeps_important_parameters(toy_benchmark, toy_network, toy_learn):
    moved = []
    for strength in (0.0, 5.0):
        approach, network = RWalk(strength, interval=2), toy_network("sdn", sizes=())
        toy_learn(approach, network, toy_benchmark().tasks[:1])
        before = flatten(network).detach().clone()
        important = approach.penalty.importance[0] > 0.3
        toy_learn(approach, network, toy_benchmark().tasks[1:2])
        moved.append((flatten(network).detach() - before)[important].abs().max().item())
    assert moved[1] < 0.7 * moved[0], moved


@pytest.mark.parametrize("settings", [{"alpha": 1.5}, {"alpha": -0.1}, {"interval": 0}])
def test_wrong_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=r"RWalk\.alpha is .* and RWalk\.interval"):
        RWalk(**settings)
