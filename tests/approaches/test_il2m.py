"""IL2M: statistics of scores, and what they make of the logits."""

import pytest
import torch

from cl_ac.approaches.il2m import IL2M
from cl_ac.memory import Memory


def rectifying(factor: list[list[float]], classes: int, **options) -> IL2M:
    approach = IL2M(**options)
    approach.factor = torch.tensor(factor)
    approach.initial = torch.zeros(len(factor), classes)
    return approach


def test_old_scores_are_multiplied_where_a_new_class_wins():
    # Mean scores 4 then and 2 now, confidence 5 then and now: 4 / 2 · 5 / 5.
    approach = rectifying([[2.0]], 2)
    assert approach.correct(torch.tensor([[[2.0, 3.0], [3.0, 2.0]]])).tolist() == [[[4.0, 3.0], [3.0, 2.0]]]


def test_probabilities_are_multiplied_up_to_a_constant():
    approach = rectifying([[2.0, 0.5]], 3, scores="probabilities")
    logits = torch.tensor([[[0.5, 1.0, 2.0], [0.0, 3.0, 2.0]]])
    multiplied = logits[0, 0].softmax(0) * torch.tensor([2.0, 0.5, 1.0])
    torch.testing.assert_close(approach.correct(logits)[0, 0].softmax(0), multiplied / multiplied.sum())
    assert torch.equal(approach.correct(logits)[0, 1], logits[0, 1])


def test_each_exit_has_its_own_factors_and_winner():
    approach = rectifying([[2.0], [3.0], [4.0]], 2)
    logits = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]], [[1.0, 2.0]]])
    assert approach.correct(logits).tolist() == [[[2.0, 2.0]], [[3.0, 2.0]], [[4.0, 2.0]]]


@pytest.mark.parametrize("classes", [1, 3])
def test_logits_of_another_task_stay_as_they_are(classes):
    logits = torch.arange(3.0)[None, None, :classes]
    assert torch.equal(rectifying([[2.0]], 2).correct(logits), logits)


@pytest.mark.parametrize("scores", ["logits", "probabilities"])
def test_statistics_are_means_of_the_tasks_own_and_of_the_exemplars_that_were_trained_on(
    scores, toy_benchmark, toy_network, toy_learn, toy_trainer
):
    approach, network = IL2M(scores), toy_network("sdn", sizes=())
    approach.memory = Memory(12)
    tasks, wanted = toy_benchmark(validation=0).tasks, []

    def own(task, images, targets):
        network.eval()
        with torch.no_grad():
            logits = network(toy_trainer.augmentation.apply(images)).double()
        values = logits if scores == "logits" else logits.softmax(-1)
        means = [values[:, targets == c, c].mean(1) for c in sorted(set(targets.tolist()))]
        return torch.stack(means, 1), values.max(-1).values.mean(1, keepdim=True)

    for task in tasks[:2]:
        exemplars = approach.memory.samples
        toy_learn(approach, network, [task])
        now = own(task, exemplars.images, exemplars.targets)[0] if len(exemplars) else None
        wanted.append((*own(task, task.train.images, task.train.targets), now))
    (initial, before, _), (_, after, current) = wanted
    expected = initial / current * (after / before)
    torch.testing.assert_close(approach.factor.double(), expected, rtol=1e-4, atol=1e-5)
    assert len(set(approach.factor.flatten().tolist())) == 6
    logits = torch.zeros(3, 1, 4)
    logits[:, :, :2], logits[:, :, 3] = -1.0, 1.0
    multiplied = -expected if scores == "logits" else expected.log() - 1
    torch.testing.assert_close(approach.correct(logits)[:, 0, :2].double(), multiplied, rtol=1e-4, atol=1e-5)


def test_a_class_without_exemplars_keeps_its_scores(toy_benchmark, toy_network, toy_learn):
    approach, network = IL2M(), toy_network(sizes=())
    approach.memory = Memory(12)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:1])
    approach.memory.store(approach.memory.samples.select(approach.memory.targets == 1))
    toy_learn(approach, network, tasks[1:2])
    assert approach.factor[0, 0] == 1
    assert approach.factor[0, 1] != 1


def test_loss_is_cross_entropy_over_all_classes(numbered_network, numbered_batch):
    logits = torch.tensor([[[0.0, 1.0, 2.0]], [[1.0, 0.5, -1.0]], [[0.0, 0.0, 0.0]]])
    loss = IL2M().loss(numbered_network(logits), numbered_batch([0], [1], (2, 1)))
    torch.testing.assert_close(loss, logits[:, 0].logsumexp(-1) - logits[:, 0, 1])
