"""CODA-Prompt: its prompts and its loss by independent numbers, and what begins orthogonal and stays."""

import numpy as np
import pytest
import torch

from cl_ac.approaches.coda_prompt import CODAPrompt, Components, orthogonal
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork
from cl_ac.tuning.prompted import prompts_in


@pytest.fixture
def learning(toy_backbone, toy_benchmark, toy_trainer):
    """Makes an approach, a network with three exits that begins the second task, and a batch of it."""

    def make(**options):
        approach = CODAPrompt(**{"components": 2, "length": 4, "blocks": (0, 2), **options})
        backbone = toy_backbone(approach=approach)
        approach.prepare(backbone)
        network = ExitNetwork(backbone, backbone.exits("sdn"))
        images = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        for task in toy_benchmark().tasks[:2]:
            network.grow(task.num_classes, 0)
            approach.begin_task(task, network, toy_trainer)
            batch = Batch(images, torch.tensor([0, 1, 0, 1, 1, 0]) + task.classes.start, task)
            losses = approach.loss(network, batch)
        return approach, network, batch, losses

    return make


def test_prompts_are_weighted_sums():
    stream = np.random.default_rng(0)
    keys, attention = (stream.normal(size=(3, 2, 5)) for _ in range(2))
    components, queries = stream.normal(size=(3, 2, 4, 5)), stream.normal(size=(2, 5))
    prompts = Components((1, 4), 4, 5)
    values = {"keys": keys, "attention": attention, "components": components}
    prompts.grow(**{name: torch.tensor(value).float() for name, value in values.items()})
    query = torch.tensor(queries).float()
    assert prompts.told(4, query, query) is None
    with prompts.learning():
        told = prompts.told(4, query, query)
        assert prompts.told(0, query, query) is None
    for image, asked in enumerate(queries):
        expected = np.zeros((4, 5))
        for m in range(3):
            seen, key = asked * attention[m, 1], keys[m, 1]
            expected += seen @ key / np.linalg.norm(seen) / np.linalg.norm(key) * components[m, 1]
        np.testing.assert_allclose(told[image].detach().numpy(), [expected[:2], expected[2:]], rtol=1e-4, atol=1e-5)


def test_loss(learning):
    _, network, batch, losses = learning(orthogonality=0.3)
    prompts = prompts_in(network.backbone, Components)
    with torch.no_grad():
        logits = network(batch.images)
    overlap = 0.0
    for name in ("keys", "attention", "components"):
        vectors = prompts.all(name).detach().double().numpy()
        for block in range(2):
            rows = vectors[:, block].reshape(len(vectors), -1)
            overlap += np.mean((rows @ rows.T - np.eye(len(rows))) ** 2)
    expected = cross_entropy(logits, batch.targets, batch.task.classes).double().numpy()
    expected[-1] += 0.3 * overlap
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-5)


def test_overlap_of_vectors_that_are_not_orthogonal():
    prompts = Components((0,), 2, 2)
    keys = torch.tensor([[[1.0, 1.0]], [[0.0, 2.0]]])
    prompts.grow(keys=keys, attention=torch.eye(2)[:, None], components=torch.eye(2).repeat(1, 2).view(2, 1, 2, 2))
    with prompts.learning():
        # K Kᵀ − 1 is [[1, 2], [2, 3]], of P it is [[1, 0], [0, 1]].
        assert prompts.overlap().item() == pytest.approx(18 / 4 + 0 + 2 / 4)


def test_new_vectors_begin_orthogonal_to_all_before(learning):
    _, network, *_ = learning(components=3)
    prompts = prompts_in(network.backbone, Components)
    for name in prompts.names:
        vectors = prompts.all(name).flatten(2).transpose(0, 1)
        assert vectors.shape[:2] == (2, 6)
        torch.testing.assert_close(vectors @ vectors.mT, torch.eye(6).expand(2, -1, -1), atol=1e-5, rtol=0)


def test_vectors_that_find_no_room_keep_their_direction():
    earlier, drawn = torch.tensor([[1.0, 1.0, 0.0]]), torch.randn(3, 3)
    found = orthogonal(earlier, drawn)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found[:2] @ earlier.T, torch.zeros(2, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], drawn[2] / drawn[2].norm())


def test_earlier_components_are_frozen(learning):
    _, network, _, losses = learning()
    losses.sum().backward()
    learned = {name for name, parameter in network.backbone.named_parameters() if parameter.grad is not None}
    assert learned == {f"stages.0.prompts.new_{name}" for name in ("keys", "attention", "components")}


def test_an_answer_does_not_depend_on_the_batch(learning):
    approach, network, batch, _ = learning()
    network.eval()
    together = approach.answer(network, batch.images)
    alone = torch.cat([approach.answer(network, image[None]) for image in batch.images], 1)
    torch.testing.assert_close(together, alone)


def test_blocks_that_do_not_exist_are_refused(toy_backbone):
    approach = CODAPrompt()
    with pytest.raises(ConfigurationError, match=r"CODAPrompt.blocks is \[0, 1, 2, 3, 4\], but the backbone has"):
        approach.prepare(toy_backbone(approach=approach))


@pytest.mark.parametrize("options", [{"components": 0}, {"length": 3}, {"length": 0}, {"orthogonality": -0.1}])
def test_impossible_prompts_are_refused(options):
    with pytest.raises(ConfigurationError, match="at least 1 component, of an even length of at least 2"):
        CODAPrompt(**options)
