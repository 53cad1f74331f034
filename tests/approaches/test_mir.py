"""MIR: which exemplars a step chooses, and what choosing leaves alone."""

from dataclasses import replace

import pytest
import torch

from cl_ac.approaches.mir import MIR
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.memory import Memory


@pytest.fixture
def batch(numbered_batch):
    """Two new images, and candidates of which the second alone is not of their classes, though it looks like one."""
    images = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images[3] = images[0]
    index = {"index": torch.arange(4)}
    candidates = replace(numbered_batch([2, 3, 4, 5], [2, 0, 3, 2], (2, 2), extras=index), images=images[2:])
    return replace(numbered_batch([0, 1], [2, 3], (2, 2)), images=images[:2], replay=(candidates,))


def test_interference_is_the_rise_of_the_loss_after_a_real_step(toy_network, batch):
    network, twin = (toy_network("sdn", (2, 2)) for _ in range(2))
    candidates = batch.replay[0]
    # The step is that of a network in training mode, the losses are of evaluation mode.
    loss = cross_entropy(network(batch.images), batch.targets)[-1]
    found = MIR(virtual_lr=0.2).interference(network, loss, candidates)
    cross_entropy(twin(batch.images), batch.targets)[-1].backward()

    def losses() -> list[float]:
        rows = twin.eval()(candidates.images)[-1].double().log_softmax(-1)
        return [-rows[n, target].item() for n, target in enumerate(candidates.targets)]

    before = losses()
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.grad is not None:
                parameter -= 0.2 * parameter.grad
    expected = [after - first for after, first in zip(losses(), before, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert found.argmax() == 1
    assert found[1] > 0


def test_loss_is_that_of_new_images_and_of_the_chosen(toy_network, batch):
    network, candidates = toy_network("sdn", (2, 2)).eval(), batch.replay[0]
    loss = MIR(replay=1, candidates=4).loss(network, batch)
    own = cross_entropy(network(batch.images), batch.targets)
    torch.testing.assert_close(loss, own + cross_entropy(network(candidates.images[1:2]), candidates.targets[1:2]))


def test_an_exemplar_that_is_drawn_twice_is_learned_once(toy_network, batch, monkeypatch):
    network, candidates = toy_network("sdn", (2, 2)).eval(), batch.replay[0]
    # The first and the last would be harmed most, but are the same.
    monkeypatch.setattr(MIR, "interference", lambda *_: torch.tensor([4.0, 1.0, 2.0, 3.0]))
    twice = replace(candidates, extras={"index": torch.tensor([7, 5, 6, 7])})
    own = cross_entropy(network(batch.images), batch.targets)
    loss = MIR(replay=2, candidates=4).loss(network, replace(batch, replay=(twice,)))
    learned = cross_entropy(network(candidates.images[[0, 2]]), candidates.targets[[0, 2]])
    torch.testing.assert_close(loss, own + learned)


def test_choosing_changes_neither_weights_nor_statistics_nor_mode(toy_network, batch):
    network = toy_network("sdn", (2, 2)).train()
    loss = cross_entropy(network(batch.images), batch.targets)[-1]
    before = {name: value.clone() for name, value in network.state_dict().items() if "extra" not in name}
    MIR().interference(network, loss, batch.replay[0])
    assert network.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_as_many_are_learned_as_asked_for(toy_benchmark, toy_network, toy_learn):
    sizes: list[int] = []
    approach, network = MIR(replay=3, candidates=9), toy_network("sdn", sizes=())
    approach.memory = Memory(12)
    network.register_forward_pre_hook(lambda module, inputs: sizes.extend([len(inputs[0])] * module.training))
    for task, passes in zip(toy_benchmark(validation=0).tasks[:2], ([8], [8, 3]), strict=True):
        sizes.clear()
        toy_learn(approach, network, [task])
        # 24 images make three batches of 8, in two epochs.
        assert sizes == passes * 6


def test_more_chosen_than_candidates_are_refused():
    with pytest.raises(ConfigurationError, match=r"MIR\.replay is 5"):
        MIR(replay=5, candidates=4)
