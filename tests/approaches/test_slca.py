"""SLCA: a slow backbone, and heads that drawn features align and the next task takes back."""

from functools import partial

import numpy as np
import pytest
import torch

from cl_ac.approaches.slca import SLCA
from cl_ac.data.batches import Batch
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.training.fitting import grouped


@pytest.fixture
def learned(toy_network, toy_benchmark, toy_trainer):
    """Makes an approach that has prototypes of two tasks, its network and its second task."""

    def make(**options):
        approach, network = SLCA(**options), toy_network("sdn", (2,))
        first, second, _ = toy_benchmark().tasks
        approach.end_task(first, network.eval(), toy_trainer)
        network.grow(2, 0)
        approach.alignment_epochs = 0
        approach.end_task(second, network, toy_trainer)
        return approach, network, second

    return make


def test_alignment_loss_by_definition(learned):
    approach, network, task = learned(samples=7, norm=0.3)
    batch = Batch(torch.zeros(1, 1, 6, 6), torch.zeros(1), task, stream=partial(generator, 0))
    loss = approach.alignment_loss(network, batch).detach().numpy()
    chosen = approach.prototypes.draw(7, batch)
    targets = approach.prototypes.targets[chosen].tolist()
    drawn = approach.prototypes.gaussian(chosen, 1e-4, batch)
    for index, head in enumerate(network.heads):
        errors = []
        for value, target in zip(drawn[index], targets, strict=True):
            share = {0: 0.95, 1: 1.0}[target // 2]
            moved = value + (share - 1) * approach.prototypes.means[index][target]
            z = head.alone(moved[None])[0].detach().numpy().astype(np.float64)
            length = (np.linalg.norm(z[:2]) + np.linalg.norm(z[2:])) / 2
            z = z / length / 0.3
            errors.append(np.log(np.exp(z).sum()) - z[target])
        assert loss[index] == pytest.approx(np.mean(errors), rel=1e-4)


def test_old_means_shrink_with_the_age_of_their_task(learned):
    approach, _, task = learned()
    assert approach.shares(task).tolist() == pytest.approx([0.95, 0.95, 1, 1])


def test_the_backbone_learns_at_its_share_of_the_rate(toy_network):
    network = toy_network("sdn")
    heads, backbone = grouped(SLCA(backbone_rate=0.02).learns(network))
    assert (heads.lr_scale, backbone.lr_scale) == (1.0, 0.02)
    assert {id(p) for p in backbone.parameters} == {id(p) for p in network.backbone.parameters()}


def test_alignment_moves_heads_alone_and_the_next_task_takes_it_back(toy_network, toy_benchmark, toy_trainer):
    approach, network = SLCA(alignment_epochs=2, samples=8), toy_network("sdn", (2,))
    first, second, third = toy_benchmark().tasks
    approach.end_task(first, network.eval(), toy_trainer)
    network.grow(2, 0)
    before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    approach.end_task(second, network, toy_trainer)
    moved = {name for name, value in before.items() if not torch.equal(network.state_dict()[name], value)}
    assert moved
    assert all(name.startswith("heads.") for name in moved)
    assert any("old_weight" in name for name in moved)
    approach.expand(third, network, toy_trainer)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigurationError, match="backbone_rate is 0"):
        SLCA(backbone_rate=0.0)
    with pytest.raises(ConfigurationError, match="samples is 0"):
        SLCA(samples=0)
