"""DualPrompt: its loss by independent numbers, which prompts learn, and which an image gets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cl_ac.approaches.dual_prompt import DualPrompt, DualPrompts
from cl_ac.data.batches import Batch
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.network import ExitNetwork
from cl_ac.tuning.prompted import prompts_in

SMALL = {"general_blocks": (0,), "expert_blocks": (1, 2), "general_length": 2, "expert_length": 3}


@pytest.fixture
def learning(toy_backbone, toy_benchmark, toy_trainer):
    """Makes an approach, a network with three exits that begins the second task, and a batch of it."""

    def make(**options):
        approach = DualPrompt(**{**SMALL, **options})
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


def test_loss(learning):
    _, network, batch, losses = learning(pull=0.4)
    prompts = prompts_in(network.backbone, DualPrompts)
    with prompts.learning() as lesson, torch.no_grad():
        logits = network(batch.images)
    key = prompts.new_keys[0].detach().double().numpy()
    queries = lesson.query.double().numpy()
    cosines = [query @ key / np.linalg.norm(query) / np.linalg.norm(key) for query in queries]
    expected = cross_entropy(logits, batch.targets, batch.task.classes).double().numpy()
    expected[-1] += 0.4 * (1 - np.mean(cosines))
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-5)


def test_the_nearest_key_is_chosen():
    prompts = DualPrompts((0,), (1,), 1, 1, 2, by_batch=False)
    prompts.grow(keys=torch.eye(2), experts=torch.randn(2, 1, 2, 1, 2))
    with prompts.learning():
        pass
    query = torch.tensor([[0.6, 0.8], [2.0, 1.0]])
    assert prompts.choose(query).tolist() == [1, 0]
    told = prompts.told(1, query, torch.zeros(2, 5, 2))
    assert torch.equal(told, prompts.new_experts[[1, 0], 0])
    assert 1 - F.cosine_similarity(query[:1], prompts.new_keys[:1]).item() == pytest.approx(1 - 0.6)


def test_a_batch_gets_what_most_of_its_images_chose():
    prompts = DualPrompts((), (1,), 1, 1, 2, by_batch=True)
    prompts.grow(keys=torch.eye(2), experts=torch.randn(2, 1, 2, 1, 2))
    with prompts.learning():
        pass
    assert prompts.choose(torch.tensor([[0.6, 0.8], [2.0, 1.0], [1.0, 3.0]])).tolist() == [1, 1, 1]


def test_earlier_expert_prompts_and_keys_stay_and_the_general_ones_learn(learning):
    _, network, _, losses = learning()
    losses.sum().backward()
    learned = {name for name, parameter in network.backbone.named_parameters() if parameter.grad is not None}
    assert learned == {f"stages.0.prompts.{name}" for name in ("general", "new_keys", "new_experts")}


@pytest.mark.parametrize("from_previous", [True, False])
def test_an_expert_prompt_begins_as_the_one_before(learning, from_previous):
    _, network, *_ = learning(from_previous=from_previous)
    prompts = prompts_in(network.backbone, DualPrompts)
    assert torch.equal(prompts.new_experts, prompts.old_experts) == from_previous
    assert not torch.equal(prompts.new_keys, prompts.old_keys)


@pytest.mark.parametrize(("choice", "depends"), [("image", False), ("batch", True)])
def test_an_answer_depends_on_the_batch_only_in_the_published_form(learning, choice, depends):
    approach, network, batch, _ = learning(choice=choice, from_previous=False)
    prompts = prompts_in(network.backbone, DualPrompts)
    network.eval()
    with prompts.learning() as lesson, torch.no_grad():
        network(batch.images)
        # Half of the images are nearer to the one key, half to the other.
        direction = (lesson.query[:3] - lesson.query[3:]).mean(0)
        prompts.old_keys.copy_(direction[None])
        prompts.new_keys.copy_(-direction[None])
    together = approach.answer(network, batch.images)
    alone = torch.cat([approach.answer(network, image[None]) for image in batch.images], 1)
    assert torch.allclose(together, alone, atol=1e-5) != depends


@pytest.mark.parametrize("blocks", [(1, 3), (0, 1), (-1,)])
def test_blocks_that_do_not_fit_are_refused(toy_backbone, blocks):
    approach = DualPrompt(general_blocks=(0,), expert_blocks=blocks)
    with pytest.raises(ConfigurationError, match="the backbone has the transformer blocks 0 to 2; name each once"):
        approach.prepare(toy_backbone(approach=approach))


def test_prompts_of_a_finished_task_never_change(toy_backbone, toy_benchmark, toy_learn):
    approach = DualPrompt(**SMALL)
    backbone = toy_backbone(approach=approach)
    approach.prepare(backbone)
    network, tasks = ExitNetwork(backbone, backbone.exits("sdn")), toy_benchmark().tasks
    toy_learn(approach, network, tasks[:1])
    prompts = prompts_in(network.backbone, DualPrompts)
    first = {name: prompts.all(name).clone() for name in ("keys", "experts")}
    assert first["keys"].shape == (1, 8)
    general = prompts.general.clone()
    toy_learn(approach, network, tasks[1:])
    for name, values in first.items():
        assert torch.equal(prompts.all(name)[:1], values)
        assert not torch.equal(prompts.all(name)[1], prompts.all(name)[2])
    assert not torch.equal(prompts.general, general)
