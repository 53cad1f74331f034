"""Experience replay: one pass over new images and exemplars together."""

import math

import pytest
import torch

from cl_ac.approaches.er import ER
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory

LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(4)] for n in range(5)] for e in range(2)]


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


@pytest.mark.parametrize("exits", [1, 2])
def test_loss_is_the_mean_over_new_images_and_exemplars(exits, numbered_network, numbered_batch):
    replay = numbered_batch([3, 4], [0, 1], (2, 2))
    batch = numbered_batch([0, 1, 2], [2, 3, 2], (2, 2), replay=(replay,))
    loss = ER().loss(numbered_network(torch.tensor(LOGITS[:exits])), batch)
    expected = [sum(cross_entropy(rows[n], t) for n, t in enumerate([2, 3, 2, 0, 1])) / 5 for rows in LOGITS[:exits]]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_new_images_and_exemplars_share_one_pass(toy_benchmark, toy_network, toy_learn):
    sizes: list[int] = []
    approach, network = ER(replay=3), toy_network("sdn", sizes=())
    approach.memory = Memory(6)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    hook = network.register_forward_pre_hook(lambda module, inputs: sizes.extend([len(inputs[0])] * module.training))
    toy_learn(approach, network, tasks[1:2])
    hook.remove()
    # 24 images make three batches of 8, in two epochs.
    assert sizes == [11] * 6


def test_each_step_draws_at_least_one_exemplar(toy_benchmark):
    approach = ER(replay=0)
    with pytest.raises(ConfigurationError, match="replay is 0"):
        approach.training_set(toy_benchmark()[0])
