"""GDumb: training from the initial weights on the memory alone."""

import math
from functools import partial

import pytest
import torch

from cl_ac.approaches.gdumb import GDumb, cutmix
from cl_ac.data.loading import EpochBatches
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory

LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(4)] for n in range(3)] for e in range(2)]


def cross_entropy(row: list[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def tensors_of(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("exits", [1, 2])
def test_loss_without_mixing_is_cross_entropy(exits, numbered_network, numbered_batch):
    batch = numbered_batch([0, 1, 2], [0, 3, 1], (2, 2))
    loss = GDumb(cutmix=0.0).loss(numbered_network(torch.tensor(LOGITS)[:exits]), batch)
    expected = [sum(cross_entropy(rows[n], t) for n, t in enumerate([0, 3, 1])) / 3 for rows in LOGITS[:exits]]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_mixed_targets_count_by_their_share_of_the_area(numbered_batch, monkeypatch):
    partners, kept = torch.tensor([1, 2, 0]), torch.tensor(0.25)
    monkeypatch.setattr("cl_ac.approaches.gdumb.cutmix", lambda images, probability: (images, partners, kept))
    batch = numbered_batch([0, 1, 2], [0, 3, 1], (2, 2))
    loss = GDumb().loss(lambda images: torch.tensor(LOGITS), batch)
    for rows, value in zip(LOGITS, loss.tolist(), strict=True):
        own = sum(cross_entropy(rows[n], t) for n, t in enumerate([0, 3, 1])) / 3
        other = sum(cross_entropy(rows[n], t) for n, t in enumerate([3, 1, 0])) / 3
        assert value == pytest.approx(0.25 * own + 0.75 * other, rel=1e-5)


def test_cutmix_pastes_one_box_of_the_partner():
    images = torch.arange(6.0)[:, None, None, None].expand(-1, 2, 12, 10)
    shares, changed = [], 0
    for seed in range(200):
        torch.manual_seed(seed)
        mixed, partner, kept = cutmix(images, 0.5)
        differs = mixed != images
        box = (partner != torch.arange(6))[:, None, None, None] & differs.any(0, keepdim=True)
        assert torch.equal(differs, box)
        assert torch.equal(mixed, torch.where(differs, images[partner], images))
        if differs.any():
            rows, columns = differs.any(0)[0].nonzero().unbind(1)
            area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert area == differs.any(0)[0].sum()
            assert kept.item() == pytest.approx(1 - area.item() / 120)
            changed += 1
            shares.append(kept.item())
        else:
            assert kept == 1
    assert 70 < changed < 110
    assert 0.5 < sum(shares) / len(shares) < 0.8


def test_probability_zero_changes_nothing():
    images = torch.rand(4, 1, 6, 6)
    mixed, _, kept = cutmix(images, 0.0)
    assert torch.equal(mixed, images)
    assert kept == 1


@pytest.mark.parametrize("exits", [(), ("sdn",)])
def test_each_task_begins_with_the_initial_weights(exits, toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = GDumb(), toy_network(*exits, sizes=())
    approach.memory = Memory(12)
    tasks = toy_benchmark(validation=0).tasks
    untrained = toy_network(*exits, sizes=(2, 2))
    toy_learn(approach, network, tasks[:1])
    trained = tensors_of(network)
    network.grow(2, 0)
    approach.begin_task(tasks[1], network, toy_trainer)
    for name, value in tensors_of(untrained).items():
        assert torch.equal(network.state_dict()[name], value), name
    assert any(
        not torch.equal(trained[name], value) for name, value in tensors_of(untrained).items() if name in trained
    )


def test_the_initial_weights_survive_saving(toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = GDumb(), toy_network("sdn", sizes=())
    approach.memory = Memory(12)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:2])
    restored, copy = GDumb(), toy_network("sdn", sizes=())
    restored.memory = Memory(12)
    copy.load_state_dict(network.state_dict())
    restored.restore(approach.state_dict(), copy)
    copy.grow(2, 0)
    restored.begin_task(tasks[2], copy, toy_trainer)
    for name, value in tensors_of(toy_network("sdn", sizes=(2, 2, 2))).items():
        assert torch.equal(copy.state_dict()[name], value), name


def test_without_reset_training_goes_on(toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = GDumb(reset=False), toy_network(sizes=())
    approach.memory = Memory(12)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    trained = tensors_of(network.backbone)
    network.grow(2, 0)
    approach.begin_task(tasks[1], network, toy_trainer)
    for name, value in trained.items():
        assert torch.equal(network.backbone.state_dict()[name], value)
    assert not any(name.startswith("initial") for name in approach.state_dict())


def test_it_trains_on_a_balanced_memory_and_nothing_else(toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = GDumb(), toy_network(sizes=())
    approach.memory = Memory(9)
    tasks = toy_benchmark(validation=0).tasks
    for count, shares in ((1, [5, 4]), (2, [3, 2, 2, 2])):
        toy_learn(approach, network, tasks[count - 1 : count])
        data = approach.training_set(tasks[count - 1])
        assert data.samples.targets.bincount().tolist() == shares
        assert data.memory is None


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ConfigurationError, match=r"GDumb\.cutmix is 2"):
        GDumb(cutmix=2)


def test_joined_steps_learn_from_two_draws_of_exemplars(toy_benchmark, toy_network, toy_trainer):
    task, approach = toy_benchmark()[0], GDumb(joined=True, cutmix=0.0)
    approach.memory = Memory(16)
    network = toy_network("sdn").eval()
    approach.begin_task(task, network, toy_trainer)
    data = approach.training_set(task)
    stream = partial(toy_trainer.generator, "x")
    batches = list(EpochBatches(data, 8, toy_trainer.loader, stream, stream)(0, 1))
    assert [(len(batch), [len(part) for part in batch.replay]) for batch in batches] == [(8, [8]), (8, [8])]
    images, targets = (
        torch.cat([getattr(part, name) for part in (batches[0], *batches[0].replay)]) for name in ("images", "targets")
    )
    expected = torch.stack([torch.nn.functional.cross_entropy(logits, targets) for logits in network(images)])
    torch.testing.assert_close(approach.loss(network, batches[0]), expected)
