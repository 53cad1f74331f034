"""HAT: gates learn which units a task needs, and what earlier tasks need is held."""

import pytest
import torch

from cl_ac.approach import Batch
from cl_ac.approaches.hat import HAT, compensated, gate_values, share_opened
from cl_ac.backbones.gating import make_gated
from cl_ac.errors import ConfigurationError
from cl_ac.network import ExitNetwork


@pytest.fixture
def gated(toy_backbone):
    """Makes a gated network without classes."""

    def make(exits="sdn"):
        backbone = toy_backbone()
        make_gated(backbone)
        return ExitNetwork(backbone, backbone.exits(exits))

    return make


def test_the_gradient_of_e_is_compensated_for_the_scale():
    for scale, value in ((400.0, 0.0), (2.0, 0.5), (1 / 400, 3.0)):
        embedding = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        kept = compensated(embedding, scale, 400.0)
        assert kept.item() == value
        kept.backward()
        expected = 400 / scale * (torch.cosh(torch.tensor(scale * value)) + 1) / (torch.cosh(torch.tensor(value)) + 1)
        assert embedding.grad.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_earlier_tasks_use_is_open_for_nothing():
    opened = torch.tensor([0.5, 1.0, 0.25, 0.0])
    assert share_opened(opened, torch.tensor([False, True, False, False])).item() == 0.25
    assert share_opened(opened, torch.ones(4, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize(("step", "steps", "done"), [(1, 3, 0.5), (0, 2, 0.0), (1, 2, 1.0), (0, 1, 1.0)])
def test_each_exit_pays_for_opened_units(gated, toy_benchmark, toy_trainer, step, steps, done):
    network, approach, task = gated(), HAT(strength=2.0), toy_benchmark()[0]
    network.grow(2, 0)
    approach.begin_task(task, network, toy_trainer)
    batch = Batch(torch.zeros(4, 1, 6, 6), torch.tensor([0, 1, 0, 1]), task, step=step, steps=steps)
    free = HAT(strength=0.0)
    free.load_state_dict(approach.state_dict())
    scale = 1 / 400 + (400 - 1 / 400) * done
    share = torch.sigmoid(scale * approach.embedding).mean()
    torch.testing.assert_close(approach.loss(network, batch) - free.loss(network, batch), (2 * share).expand(3))


def test_earlier_tasks_stay_bit_for_bit(gated, toy_learn, toy_benchmark):
    # Of so few units, the default strength leaves none open.
    network, approach = gated(), HAT(strength=0.1)
    tasks = toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    before = approach.task_network(network.eval(), 0)
    toy_learn(approach, network, tasks[1:])
    after = approach.task_network(network.eval(), 0)
    images = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    for old, new in zip(before.hidden(images), after.hidden(images), strict=True):
        assert torch.equal(old, new)
    for old, new in zip(before.heads, after.heads, strict=True):
        assert torch.equal(old.classifier.weight, new.classifier.weight[:2])
    held = approach.fixed
    assert held.any()
    assert not held.all()


def test_a_task_is_answered_with_its_own_gates(gated, toy_learn, toy_benchmark):
    network, approach = gated(), HAT()
    toy_learn(approach, network, toy_benchmark().tasks[:2])
    assert approach.used.shape[0] == 2
    images = torch.randn(3, 1, 6, 6)
    for task in range(2):
        tensors = approach.tensors_in_task(network, task)
        assert torch.equal(torch.cat(list(tensors.values())), approach.used[task].float())
        assert tensors.keys() == gate_values(network, approach.embedding).keys()
    assert approach.answer(network.eval(), images).shape == (3, 3, 4)


def test_a_scale_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="largest_scale"):
        HAT(largest_scale=0.5)
