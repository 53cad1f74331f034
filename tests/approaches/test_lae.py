"""LAE: what tunes learns after the heads, its slow average remembers, and the surer of both answers."""

import numpy as np
import pytest
import torch

from cl_ac.approaches.finetuning import FineTuning
from cl_ac.approaches.lae import LAE
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, ExitNetwork
from cl_ac.tuning.bank import banks, tuning_parameters


@pytest.fixture
def prepared(toy_backbone):
    """Makes an approach and a network that it has prepared."""

    def make(**options) -> tuple[LAE, ExitNetwork]:
        approach, backbone = LAE(**{"width": 3, **options}), toy_backbone()
        approach.prepare(backbone)
        return approach, ExitNetwork(backbone, backbone.exits("sdn"))

    return make


def values(network: ExitNetwork) -> list[torch.Tensor]:
    return [value.detach().clone() for value in tuning_parameters(network).values()]


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_the_surer_of_both_is_the_score(prepared, toy_benchmark, toy_trainer, toy_learn, kind):
    approach, network = prepared(kind=kind, frozen_epochs=0)
    toy_learn(approach, network, toy_benchmark().tasks[:1])
    images, online = torch.randn(3, 1, 6, 6), values(network)
    with torch.no_grad():
        answers = []
        for shift in (0.0, 0.3):
            for value, start in zip(tuning_parameters(network).values(), online, strict=True):
                value.copy_(start + shift)
            answers.append(network(images).softmax(-1).double().numpy())
        found = approach.answer(network, images).double().exp().numpy()
    assert not np.allclose(*answers)
    np.testing.assert_allclose(found, np.maximum(*answers), rtol=1e-4)


def test_the_average_begins_after_the_first_task_and_follows_each_step(prepared, toy_benchmark, toy_trainer, toy_learn):
    approach, network = prepared(frozen_epochs=0, decay=0.75)
    first, second, _ = toy_benchmark().tasks
    assert approach.offline == []
    toy_learn(approach, network, [first])
    after_first = values(network)
    assert all(torch.equal(one, other) for one, other in zip(approach.offline, after_first, strict=True))
    network.grow(2, 0)
    approach.loss(network, Batch(torch.randn(2, 1, 6, 6), torch.tensor([2, 3]), second))
    with torch.no_grad():
        for value in tuning_parameters(network).values():
            value.add_(1.0)
    approach.end_step(network)
    for slow, start in zip(approach.offline, after_first, strict=True):
        torch.testing.assert_close(slow, start + 0.25)


def test_heads_learn_alone_at_first_and_nothing_moves_the_average(prepared, toy_benchmark, toy_trainer, toy_learn):
    approach, network = prepared(frozen_epochs=1, decay=0.5)
    first, second, _ = toy_benchmark().tasks
    toy_learn(approach, network, [first])
    network.grow(2, 0)
    batch = Batch(torch.randn(2, 1, 6, 6), torch.tensor([2, 3]), second, epoch=0, epochs=2)
    network.zero_grad()
    before = values(network)
    optimizer = torch.optim.SGD(tuning_parameters(network).values(), 1.0, momentum=0.9, fused=True)
    approach.loss(network, batch).sum().backward()
    optimizer.step()
    approach.end_step(network)
    assert all(torch.equal(one, other) for one, other in zip(values(network), before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(approach.offline, before, strict=True))
    assert any(parameter.grad.any() for head in network.heads for parameter in head.new_rows)


def test_loss_is_over_the_new_classes(prepared, toy_benchmark, toy_trainer, toy_learn):
    approach, network = prepared()
    first, second, _ = toy_benchmark().tasks
    toy_learn(approach, network, [first])
    network.grow(2, 0)
    images, targets = torch.randn(4, 1, 6, 6), torch.tensor([2, 3, 3, 2])
    for epoch in range(2):
        loss = approach.loss(network.eval(), Batch(images, targets, second, epoch=epoch, epochs=2))
        expected = -network(images)[..., 2:].log_softmax(-1)[:, range(4), targets - 2].mean(1)
        torch.testing.assert_close(loss, expected)


def test_two_passes_answer(toy_run, toy_backbone, prepared):
    approach, network = prepared()
    assert approach.passes(network) == 2
    lae = toy_run(LAE(width=3, blocks=1), "lae", backbone=toy_backbone())
    plain = toy_run(FineTuning(), "plain")
    # An adapter of 4 channels to 3 and back, on 6 × 6 places.
    added = 2 * 36 * 4 * 3
    assert lae.outputs(2).cost.plain == 2 * (plain.outputs(2).cost.plain + added)


def test_the_first_blocks_are_tuned(prepared):
    _, network = prepared(kind="lora", blocks=1)
    assert len(banks(network)) == 1


def test_impossible_settings_are_refused(prepared):
    with pytest.raises(ConfigurationError, match=r"unknown approach\.kind 'lara'; did you mean 'lora'"):
        LAE("lara")
    with pytest.raises(ConfigurationError, match=r"LAE\.decay 1; the first two"):
        LAE(decay=1.0)
    with pytest.raises(ConfigurationError, match="rank of low-rank adapters is 0"):
        prepared(kind="lora", width=0)
    with pytest.raises(ConfigurationError, match="no linear layer or convolution behind the first"):
        LAE("lora").prepare(Backbone((1, 6, 6), {"flat": torch.nn.Flatten()}))
