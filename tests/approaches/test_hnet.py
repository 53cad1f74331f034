"""HNET: emitted networks of old tasks stay, by a penalty."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cl_ac.approaches.hnet import HNET, statistics
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import protected


@pytest.fixture
def images():
    return torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def learned(toy_network, toy_learn, toy_benchmark):
    """Learns the first `count` tasks; returns the network and the approach."""

    def learn(count: int, **options):
        network, approach = toy_network("sdn", ()), HNET(**{"chunk": 50, **options})
        approach.prepare(network.backbone)
        toy_learn(approach, network, toy_benchmark().tasks[:count])
        return network, approach

    return learn


def test_the_newest_task_answers_with_the_emitted_weights(learned, images):
    network, approach = learned(2)
    network.eval()
    emitted = approach.emitter(approach.embedding[None])[0]
    torch.testing.assert_close(torch.cat([p.flatten() for p in protected(network).values()]), emitted)
    torch.testing.assert_close(approach.answer_in_task(network, images, 1), network(images)[..., 2:])


def test_the_penalty_by_hand(learned, toy_learn, toy_benchmark, toy_trainer):
    network, approach = learned(2, strength=0.5)
    task = toy_benchmark().tasks[2]
    network.grow(2, 0)
    approach.begin_task(task, network, toy_trainer)
    assert approach.penalty({}).item() == 0
    with torch.no_grad():
        approach.emitter.layers[-1].bias += 0.1
    # Two old tasks, each weight of which moved by a tenth of its deviation: the mean over tasks is that of one.
    expected = 0.5 * (0.1 * approach.emitter.deviation).square().sum()
    assert approach.penalty({}).item() == pytest.approx(expected.item(), rel=1e-4)


def test_looking_ahead_takes_the_penalty_after_a_step(learned, toy_benchmark, toy_trainer):
    network, approach = learned(1, strength=1.0, lookahead=0.1)
    network.grow(2, 0)
    task = toy_benchmark().tasks[1]
    approach.begin_task(task, network, toy_trainer)
    objective = approach.emitter(approach.embedding[None]).square().mean()
    slopes = torch.autograd.grad(objective, list(approach.emitter.parameters()), retain_graph=True)
    found = approach.penalty(approach.ahead(objective))
    with torch.no_grad():
        for parameter, slope in zip(approach.emitter.parameters(), slopes, strict=True):
            parameter -= 0.1 * slope
    assert found.item() == pytest.approx(approach.penalty({}).item(), rel=1e-4)
    assert found.item() > 0


def test_a_penalty_keeps_what_is_emitted_for_old_tasks(learned):
    moved = {}
    for strength in (0.0, 0.03):
        _, approach = learned(1, strength=strength)
        before = approach.emitter(approach.embeddings).detach()
        _, approach = learned(2, strength=strength)
        moved[strength] = (approach.emitter(approach.embeddings[:1]) - before).norm().item()
    assert moved[0.03] < 0.75 * moved[0.0]


def test_each_task_keeps_its_statistics_of_batch_norm(learned, toy_learn, toy_benchmark):
    network, approach = learned(1)
    first = torch.cat([value.flatten().clone() for value in statistics(network).values()])
    toy_learn(approach, network, toy_benchmark().tasks[1:2])
    tensors = approach.tensors_in_task(network, 0)
    kept = torch.cat([tensors[name].flatten() for name in statistics(network)])
    assert torch.equal(kept, first)
    assert not torch.equal(kept, torch.cat([value.flatten() for value in statistics(network).values()]))


def test_chunks_make_it_smaller_than_the_network(toy_network):
    network, approach = toy_network(), HNET(embedding=4, hidden=(4,), chunk=20, chunk_embedding=2)
    approach.prepare(network.backbone)
    learning = sum(p.numel() for p in approach.parameters())
    assert learning < sum(p.numel() for p in network.backbone.parameters()) + 20


def test_an_old_embedding_never_learns(learned):
    _, approach = learned(2)
    assert not approach.embeddings.requires_grad
    assert isinstance(approach.embedding, nn.Parameter)
    assert not F.cosine_similarity(*approach.embeddings, dim=0).item() > 0.9


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"embedding": 0}, {"hidden": (0,)}, {"chunk": -1}])
def test_sizes_that_mean_nothing_are_refused(options):
    with pytest.raises(ConfigurationError, match="at least"):
        HNET(**options)
