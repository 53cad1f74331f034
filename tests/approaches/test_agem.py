"""A-GEM: new images alone decide the gradient, as far as exemplars allow."""

from dataclasses import replace

import torch

from cl_ac.approaches.agem import AGEM
from cl_ac.losses import cross_entropy
from cl_ac.memory import Memory


def batch_with(numbered_batch, targets: list[int], replayed: list[int]):
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    replay = replace(numbered_batch([2, 3], replayed, (2, 2)), images=images[2:])
    return replace(numbered_batch([0, 1], targets, (2, 2)), images=images[:2], replay=(replay,))


def gradients(loss, network) -> torch.Tensor:
    parameters = [parameter for parameter in network.parameters() if parameter.numel()]
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).double()


def test_the_component_against_exemplars_is_taken_away(toy_network, numbered_batch):
    network = toy_network("sdn", (2, 2)).eval()
    batch = batch_with(numbered_batch, [2, 3], [0, 1])
    loss = AGEM().loss(network, batch)
    plain = cross_entropy(network(batch.images), batch.targets)
    reference = cross_entropy(network(batch.replay[0].images), batch.replay[0].targets)
    torch.testing.assert_close(loss, plain)
    for turned, new, old in zip(loss, plain, reference, strict=True):
        g, g_ref = gradients(new, network), gradients(old, network)
        assert g @ g_ref < 0
        expected = g - (g @ g_ref) / (g_ref @ g_ref) * g_ref
        torch.testing.assert_close(gradients(turned, network), expected, rtol=1e-4, atol=1e-5)


def test_exemplars_that_agree_change_nothing(toy_network, numbered_batch):
    network = toy_network("sdn", (2, 2)).eval()
    batch = batch_with(numbered_batch, [2, 3], [2, 3])
    loss = AGEM().loss(network, batch)
    plain = cross_entropy(network(batch.images), batch.targets)
    for turned, new in zip(loss, plain, strict=True):
        assert torch.equal(gradients(turned, network), gradients(new, network))


def test_every_image_may_be_classified_within_its_task(toy_network, numbered_batch):
    network = toy_network("sdn", (2, 2)).eval()
    batch = batch_with(numbered_batch, [2, 3], [0, 1])
    exemplars = batch.replay[0]
    loss = AGEM(among="task").loss(network, batch)
    plain = cross_entropy(network(batch.images), batch.targets, slice(2, 4))
    reference = cross_entropy(network(exemplars.images), exemplars.targets, slice(0, 2))
    torch.testing.assert_close(loss, plain)
    for turned, new, old in zip(loss, plain, reference, strict=True):
        g, g_ref = gradients(new, network), gradients(old, network)
        expected = g - min(g @ g_ref, 0) / (g_ref @ g_ref) * g_ref
        torch.testing.assert_close(gradients(turned, network), expected, rtol=1e-4, atol=1e-5)


def test_exemplars_pass_on_their_own(toy_benchmark, toy_network, toy_learn):
    sizes: list[int] = []
    approach, network = AGEM(replay=3), toy_network("sdn", sizes=())
    approach.memory = Memory(6)
    network.register_forward_pre_hook(lambda module, inputs: sizes.extend([len(inputs[0])] * module.training))
    for task, passes in zip(toy_benchmark(validation=0).tasks[:2], ([8], [8, 3]), strict=True):
        sizes.clear()
        toy_learn(approach, network, [task])
        # 24 images make three batches of 8, in two epochs.
        assert sizes == passes * 6
