"""L2P: its loss by independent numbers, who learns, and whom an answer depends on."""

import numpy as np
import pytest
import torch

from cl_ac.approaches.l2p import L2P, PromptPool
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork
from cl_ac.tuning.prompted import prompts_in


@pytest.fixture
def learning(toy_backbone, toy_benchmark, toy_trainer):
    """Makes an approach, a network with three exits that begins the first task, and a batch of it."""

    def make(**options):
        approach = L2P(**{"pool": 4, "length": 2, "chosen": 2, **options})
        backbone = toy_backbone(approach=approach)
        approach.prepare(backbone)
        network = ExitNetwork(backbone, backbone.exits("sdn"))
        task = toy_benchmark().tasks[0]
        network.grow(task.num_classes, 0)
        approach.begin_task(task, network, toy_trainer)
        images = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        return approach, network, Batch(images, torch.tensor([0, 1, 0, 1, 1, 0]), task)

    return make


def test_the_nearest_keys_are_chosen_and_pulled():
    pool = PromptPool(3, 1, 2, 3, "image", "prompts")
    with torch.no_grad():
        pool.keys.copy_(torch.eye(3))
    indices, cosines = pool.choose(torch.tensor([[1.0, 0.5, 0.0]]))
    assert indices.tolist() == [[0, 1]]
    assert cosines[0].tolist() == pytest.approx([1 / np.sqrt(1.25), 0.5 / np.sqrt(1.25)])


def test_loss(learning):
    approach, network, batch = learning(pull=0.7)
    losses = approach.loss(network, batch)
    pool = prompts_in(network.backbone, PromptPool)
    keys = pool.keys.detach().double().numpy()
    with pool.learning() as lesson, torch.no_grad():
        logits = network(batch.images)
    queries = lesson.query.double().numpy()
    cosines = np.array([[q @ k / np.linalg.norm(q) / np.linalg.norm(k) for k in keys] for q in queries])
    pull = np.mean([sum(sorted(row)[-2:]) for row in cosines])
    expected = cross_entropy(logits, batch.targets, batch.task.classes).double().numpy()
    expected[-1] -= 0.7 * pull
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-5)


def test_chosen_prompts_their_keys_and_heads_learn(learning):
    approach, network, batch = learning(pool=5, chosen=1)
    approach.loss(network, batch).sum().backward()
    pool = prompts_in(network.backbone, PromptPool)
    with pool.learning() as lesson:
        network(batch.images)
    chosen = set(pool.choose(lesson.query)[0].flatten().tolist())
    assert len(chosen) < 5
    for values in (pool.prompts.grad, pool.keys.grad):
        assert {index for index, each in enumerate(values) if each.abs().sum()} == chosen
    learned = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {name.partition(".")[0] for name in learned} == {"backbone", "heads"}
    assert {name for name in learned if name.startswith("backbone")} == {
        "backbone.stages.0.prompts.keys",
        "backbone.stages.0.prompts.prompts",
    }


@pytest.mark.parametrize(("choice", "depends"), [("image", False), ("batch", True)])
def test_an_answer_depends_on_the_batch_only_in_the_published_form(learning, choice, depends):
    approach, network, batch = learning(pool=6, chosen=1, choice=choice)
    network.eval()
    pool = prompts_in(network.backbone, PromptPool)
    # Each of the first images has its own query as a key, so that not all choose the same.
    with torch.no_grad(), pool.learning() as lesson:
        network(batch.images)
        pool.keys.copy_(lesson.query[: len(pool.keys)])
    together = approach.answer(network, batch.images)
    alone = torch.cat([approach.answer(network, image[None]) for image in batch.images], 1)
    assert torch.allclose(together, alone, atol=1e-5) != depends


def test_a_batch_chooses_what_most_of_its_images_chose():
    pool = PromptPool(4, 1, 2, 4, "batch", "prompts")
    with torch.no_grad():
        pool.keys.copy_(torch.eye(4))
    queries = torch.tensor([[3.0, 2, 1, 0], [0, 3, 1, 2], [0, 1, 2, 3], [0, 3, 0, 2]])
    indices, cosines = pool.choose(queries)
    # Chosen by the images: 0 and 1, 1 and 3, 3 and 2, 1 and 3.
    assert indices.tolist() == [[1, 3]] * 4
    torch.testing.assert_close(cosines[0], torch.tensor([2.0, 0.0]) / 14**0.5)


@pytest.mark.parametrize("options", [{"chosen": 11}, {"chosen": 0}, {"length": 0}, {"pull": -1.0}])
def test_impossible_pools_are_refused(options):
    with pytest.raises(ConfigurationError, match="an image chooses at least 1 prompt and at most all"):
        L2P(**options)


def test_a_network_without_tokens_is_refused_before_training(toy_run, toy_backbone, tmp_path):
    with pytest.raises(ConfigurationError, match="L2P needs a vision transformer, and the backbone ToyBackbone has no"):
        toy_run(L2P(), "run", backbone=toy_backbone())
    assert not (tmp_path / "run").exists()
