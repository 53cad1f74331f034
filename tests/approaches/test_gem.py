"""GEM: one constraint for each earlier task."""

from dataclasses import replace

import pytest
import torch

from cl_ac.approaches.gem import GEM
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.memory import Memory

SIZES = (2, 1, 2)


def gradients(loss, network) -> torch.Tensor:
    parameters = [parameter for parameter in network.parameters() if parameter.numel()]
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.fixture
def batch(numbered_batch):
    images = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    replay = replace(numbered_batch([2, 3, 4], [2, 0, 1], SIZES), images=images[2:])
    return replace(numbered_batch([0, 1], [3, 4], SIZES), images=images[:2], replay=(replay,))


def test_no_earlier_task_loses(toy_network, batch):
    network = toy_network("sdn", SIZES).eval()
    loss = GEM(margin=0.0, ridge=0.0).loss(network, batch)
    exemplars = batch.replay[0]
    plain = cross_entropy(network(batch.images), batch.targets)
    torch.testing.assert_close(loss, plain)
    logits = network(exemplars.images)
    for index in range(3):
        turned, new = gradients(loss[index], network), gradients(plain[index], network)
        products = []
        for members in (slice(1, 3), slice(0, 1)):
            old = cross_entropy(logits[:, members], exemplars.targets[members])[index]
            reference = gradients(old, network)
            products.append((new @ reference).item())
            assert turned @ reference > -1e-4 * turned.norm() * reference.norm()
        assert min(products) < 0
        # The closest such gradient: its distance is orthogonal to it.
        assert abs((turned - new) @ turned) < 1e-3 * turned.norm() * new.norm()


def test_a_margin_adds_more_of_every_task(toy_network, batch):
    network = toy_network("sdn", SIZES).eval()
    exemplars = batch.replay[0]
    single = cross_entropy(network(exemplars.images[:1]), exemplars.targets[:1])
    least, more = (gradients(GEM(margin=m).loss(network, batch)[2], network) for m in (0.0, 50.0))
    assert (more - least) @ gradients(single[2], network) > 0


def test_every_step_takes_the_whole_memory_or_as_many_as_it_is_told(toy_benchmark, toy_network, toy_learn):
    for replay, expected in ((None, 12), (5, 5)):
        sizes: list[int] = []
        approach, network = GEM(replay), toy_network("sdn", sizes=())
        approach.memory = Memory(12)
        network.register_forward_pre_hook(
            lambda module, inputs, sizes=sizes: sizes.extend([len(inputs[0])] * module.training)
        )
        for task, passes in zip(toy_benchmark(validation=0).tasks[:2], ([8], [8, expected]), strict=True):
            sizes.clear()
            toy_learn(approach, network, [task])
            # 24 images make three batches of 8, in two epochs.
            assert sizes == passes * 6


def test_a_negative_margin_is_refused():
    with pytest.raises(ConfigurationError, match=r"GEM\.margin is -1"):
        GEM(margin=-1)
