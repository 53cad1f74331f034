"""SI: the path integral on a quadratic in closed form and on a real network step by step."""

import pytest
import torch
from torch import nn

from cl_ac.approach import Batch
from cl_ac.approaches.si import SI
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import flatten, protected
from cl_ac.losses import cross_entropy
from cl_ac.network import Backbone, ExitNetwork


class Scale(nn.Module):
    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self, hidden):
        return hidden.flatten(1) * self.theta


CURVATURE = torch.tensor([4.0, 1.0, 0.25])
START = torch.tensor([1.0, -2.0, 3.0])


@pytest.fixture
def quadratic(monkeypatch, toy_benchmark):
    """A network whose task loss is `Σ h θ² / 2` per exit, with its approach and a batch."""
    backbone = Backbone((1, 1, 3), {"scale": Scale(START.clone())})
    network = ExitNetwork(backbone)
    network.grow(3, 0)
    with torch.no_grad():
        for rows, value in zip(network.new_rows, (torch.eye(3), torch.zeros(3)), strict=True):
            rows.copy_(value)
            rows.requires_grad_(False)
    monkeypatch.setattr(
        "cl_ac.approaches.si.cross_entropy", lambda logits, targets, classes: logits.square().sum((1, 2)) / 2
    )
    images = CURVATURE.sqrt().view(1, 1, 1, 3)
    return network, SI(strength=0.5), Batch(images, torch.zeros(1, dtype=torch.int64), toy_benchmark()[0])


def descend(network, approach, batch, steps, lr, clip=None, scale=1.0):
    parameters = list(protected(network).values())
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = None
        (scale * approach.loss(network, batch).sum()).backward()
        for parameter in parameters:
            parameter.grad /= scale
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        with torch.no_grad():
            for parameter in parameters:
                parameter -= lr * parameter.grad
        approach.end_step(network)


def test_path_integral_of_gradient_descent_on_a_quadratic(quadratic):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    steps, lr = 20, 0.05
    descend(network, approach, batch, steps, lr)
    # θ_s = r^s θ_0 with r = 1 − lr·h, so ω = Σ_s lr (h θ_s)² is a geometric series.
    ratio = 1 - lr * CURVATURE
    expected = lr * (CURVATURE * START) ** 2 * (1 - ratio ** (2 * steps)) / (1 - ratio**2)
    assert torch.allclose(approach.path, expected, rtol=1e-4)


def test_small_steps_give_the_fall_of_the_loss(quadratic):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    descend(network, approach, batch, 500, 0.002)
    fall = CURVATURE / 2 * (START**2 - flatten(network).detach() ** 2)
    assert torch.allclose(approach.path, fall, rtol=1e-2)


def test_importance_divides_by_the_way_gone(quadratic, toy_trainer):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    descend(network, approach, batch, 10, 0.05)
    path, moved = approach.path.clone(), flatten(network).detach() - START
    approach.end_task(batch.task, network, toy_trainer)
    assert torch.allclose(approach.penalty.importance[0], path / (moved**2 + 0.1))


def test_penalty_and_clipping_steer_the_way_but_stay_out_of_the_gradient(quadratic):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    approach.penalty.importance = torch.tensor([[1.0, 2.0, 3.0]])
    theta, path, lr, clip = START.double(), torch.zeros(3, dtype=torch.float64), 0.05, 0.7
    anchor, importance = START.double(), torch.tensor([1.0, 2.0, 3.0]).double()
    for _ in range(15):
        task_gradient = CURVATURE.double() * theta
        gradient = task_gradient + 0.5 * 2 * importance * (theta - anchor)
        step = -lr * gradient * min(1.0, clip / gradient.norm().item())
        path -= task_gradient * step
        theta = theta + step
    descend(network, approach, batch, 15, lr, clip)
    assert torch.allclose(flatten(network).double(), theta, rtol=1e-4)
    assert torch.allclose(approach.path.double(), path, rtol=1e-4)


def test_loss_scaling_leaves_the_path_alone(quadratic):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    descend(network, approach, batch, 5, 0.05)
    expected = approach.path.clone()
    with torch.no_grad():
        next(iter(protected(network).values())).copy_(START)
    approach.begin_task(batch.task, network, None)
    descend(network, approach, batch, 5, 0.05, scale=1024.0)
    assert torch.allclose(approach.path, expected, rtol=1e-5)


def test_a_step_that_overflowed_adds_nothing(quadratic):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    approach.loss(network, batch).sum().backward()
    approach.gradient.fill_(torch.inf)
    approach.end_step(network)
    assert (approach.path == 0).all()


def test_importance_never_goes_below_zero(quadratic, toy_trainer):
    network, approach, batch = quadratic
    approach.begin_task(batch.task, network, None)
    approach.path = torch.tensor([-1.0, 0.0, 1.0])
    approach.end_task(batch.task, network, toy_trainer)
    assert approach.penalty.importance[0].tolist() == pytest.approx([0.0, 0.0, 10.0])


def test_path_follows_the_weighted_loss_of_all_exits(toy_network, toy_benchmark):
    task, network = toy_benchmark()[0], toy_network("sdn").eval()
    approach = SI()
    approach.begin_task(task, network, None)
    weights = torch.tensor([0.3, 0.6, 1.0])
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    expected = 0
    for seed in range(4):
        torch.manual_seed(seed)
        batch = Batch(torch.randn(6, 1, 6, 6), torch.tensor([0, 1, 0, 1, 1, 0]), task)
        task_loss = (weights * cross_entropy(network(batch.images), batch.targets, task.classes)).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(task_loss, list(protected(network).values()))])
        before = flatten(network).detach()
        optimizer.zero_grad()
        (weights * approach.loss(network, batch)).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        approach.end_step(network)
        expected = expected - gradient * (flatten(network).detach() - before)
    assert torch.allclose(approach.path, expected, rtol=1e-4, atol=1e-9)


def test_penalty_comes_with_the_final_exit_and_reaches_no_head(toy_network, toy_benchmark):
    task, network = toy_benchmark()[1], toy_network("sdn", (2, 2)).eval()
    approach = SI(strength=2.0)
    approach.begin_task(task, network, None)
    approach.penalty.importance = torch.rand(1, flatten(network).numel())
    approach.penalty.anchor -= 0.5
    batch = Batch(torch.randn(4, 1, 6, 6), torch.tensor([2, 3, 3, 2]), task)
    expected = cross_entropy(network(batch.images), batch.targets, task.classes).detach()
    expected[-1] += 2.0 * 0.25 * approach.penalty.importance.sum()
    assert torch.allclose(approach.loss(network, batch), expected, rtol=1e-5)
    approach.penalty(network).sum().backward()
    assert all(parameter.grad is None for parameter in network.heads.parameters())


def test_damping_of_zero_is_refused():
    with pytest.raises(ConfigurationError, match="damping is 0"):
        SI(damping=0)
