"""PackNet with a mask for each task that is orthogonal from the start."""

import pytest
import torch

from cl_ac.approaches.orthogonal_packnet import OrthogonalPackNet
from cl_ac.approaches.packnet import FREE
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import protected
from cl_ac.importance.holding import split


def test_a_task_moves_its_own_weights_and_no_others(toy_network, toy_learn, toy_benchmark, toy_trainer):
    network, approach = toy_network("sdn", ()), OrthogonalPackNet(tasks=3)
    approach.prepare(network.backbone)
    toy_learn(approach, network, toy_benchmark().tasks[:1])
    before = {name: value.detach().clone() for name, value in protected(network).items()}
    toy_learn(approach, network, toy_benchmark().tasks[1:2])
    for name, owner in split(network, approach.owner).items():
        value = protected(network)[name]
        assert torch.equal(value[owner == 0], before[name][owner == 0])
        assert (value[owner == FREE] == 0).all()
        assert (before[name][owner == 1] == 0).all()
        if value.ndim > 1:
            assert (value[owner == 1] % 1 != 0).any()  # shares of one channel begin with 1, -1 and 0
            # The toy network has 1 × 4 or 4 × 4 pairs of channels, each cut into four parts for three tasks.
            assert owner.add(1).flatten().bincount()[1:].tolist() == [owner.numel() // 4] * 2


def test_more_tasks_than_there_is_room_for_are_refused(toy_network, toy_learn, toy_benchmark):
    network, approach = toy_network(), OrthogonalPackNet(tasks=2)
    with pytest.raises(ConfigurationError, match="tasks is 2, but there is a task 3"):
        toy_learn(approach, network, toy_benchmark().tasks[:3])
