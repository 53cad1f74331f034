"""BiC: bias layers, their two stages, and where their data come from."""

import math
from dataclasses import replace

import pytest
import torch

from cl_ac.approaches.bic import BiC
from cl_ac.compatibility import check
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import Exits
from cl_ac.training import Fit, Training

# [E = 2, N = 3, C = 5] of tasks with three and two classes.
LOGITS = [[[(7 * e + 5 * n + 3 * c) % 11 / 4 for c in range(5)] for n in range(3)] for e in range(2)]
OLD = [[[(3 * e + 2 * n + 5 * c) % 7 / 3 for c in range(3)] for n in range(3)] for e in range(2)]
TARGETS = [3, 0, 4]
# Scale and shift of task 0 and of task 1, at each exit.
SCALE = [[1.25, 0.75], [0.5, 2.0]]
SHIFT = [[0.5, -0.25], [-1.0, 0.125]]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    values = [math.exp(value / temperature) for value in row]
    return [value / sum(values) for value in values]


def corrected(row: list[float], e: int) -> list[float]:
    return [SCALE[int(c >= 3)][e] * value + SHIFT[int(c >= 3)][e] for c, value in enumerate(row)]


def cross_entropy(e: int) -> float:
    return sum(-math.log(softmax(corrected(LOGITS[e][n], e))[t]) for n, t in enumerate(TARGETS)) / 3


def distillation(e: int, temperature: float) -> float:
    total = 0.0
    for n in range(3):
        teacher = softmax(corrected(OLD[e][n], e), temperature)
        student = softmax(corrected(LOGITS[e][n], e)[:3], temperature)
        total -= sum(p * math.log(q) for p, q in zip(teacher, student, strict=True))
    return total / 3


def with_biases(approach: BiC, exits: int) -> BiC:
    biases = torch.tensor([[SCALE[task], SHIFT[task]] for task in (0, 1)])[:, :, :exits]
    approach.earlier, approach.newest = biases[:1], torch.nn.Parameter(biases[1:].clone())
    approach.task_of_class = torch.tensor([0, 0, 0, 1, 1])
    return approach


@pytest.mark.parametrize("exits", [1, 2])
@pytest.mark.parametrize("strength", [2.0, None])
def test_the_first_stage_is_that_of_the_paper(strength, exits, numbered_network, numbered_batch):
    approach = with_biases(BiC(strength), exits)
    approach.teacher.forward = numbered_network(torch.tensor(OLD)[:exits])
    loss = approach.loss(numbered_network(torch.tensor(LOGITS)[:exits]), numbered_batch([0, 1, 2], TARGETS, (3, 2)))
    weights = (1.0, 2.0) if strength else (2 / 5, 3 / 5)
    expected = [weights[0] * cross_entropy(e) + weights[1] * distillation(e, 2.0) for e in range(exits)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("exits", [1, 2])
def test_the_second_stage_reaches_the_newest_biases_alone(exits, numbered_network, numbered_batch):
    approach = with_biases(BiC(), exits)
    logits = torch.tensor(LOGITS)[:exits].requires_grad_()
    loss = approach.bias_loss(numbered_network(logits), numbered_batch([0, 1, 2], TARGETS, (3, 2)))
    expected = [cross_entropy(e) + 0.1 * SHIFT[1][e] ** 2 / 2 for e in range(exits)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    loss.sum().backward()
    assert (approach.newest.grad != 0).all()
    assert logits.grad is None


def test_correction_scales_and_shifts_by_task():
    logits = torch.tensor(LOGITS)
    expected = torch.tensor([[corrected(row, e) for row in rows] for e, rows in enumerate(LOGITS)])
    approach = with_biases(BiC(), 2)
    assert torch.allclose(approach.correct(logits), expected)
    assert torch.allclose(approach.correct(logits[:, :, :3]), expected[:, :, :3])


@pytest.mark.parametrize("exits", [(), ("sdn",)])
def test_stage_two_trains_nothing_but_the_newest_biases(exits, toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = BiC(bias_epochs=3), toy_network(*exits, sizes=())
    approach.memory = Memory(24)
    tasks = toy_benchmark(validation=0).tasks
    toy_learn(approach, network, tasks[:2])
    assert torch.equal(approach.earlier, torch.tensor([[[1.0] * len(network), [0.0] * len(network)]]))
    assert (approach.newest != approach.earlier).all()
    network.grow(2, 0)
    approach.begin_task(tasks[2], network, toy_trainer)
    assert torch.equal(approach.newest, torch.tensor([[[1.0] * len(network), [0.0] * len(network)]]))
    toy_trainer.fit(Fit(network, approach.loss, approach.training_set(tasks[2])))
    before = {name: value.clone() for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    earlier = approach.earlier.clone()
    approach.choose_exemplars(tasks[2], network, toy_trainer)
    approach.end_task(tasks[2], network, toy_trainer)
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name
    assert torch.equal(approach.earlier, earlier)
    assert (approach.newest != torch.tensor([1.0, 0.0])[:, None]).all()
    assert not approach.newest.requires_grad


def test_held_out_exemplars_come_from_the_quota(toy_benchmark, toy_network, toy_learn, toy_trainer):
    approach, network = BiC(validation=0.25, bias_epochs=1), toy_network(sizes=())
    approach.memory = Memory(26)
    tasks = toy_benchmark(per_class=15, validation=0).tasks
    # q = 26 // classes = 13, 6, 4; v = ceil(q / 4) = 4, 2, 1.
    for task, (trained, held_out) in zip(tasks, [(9, 4), (4, 2), (3, 1)], strict=True):
        toy_learn(approach, network, [task])
        classes = task.classes_seen
        assert approach.memory.targets.bincount().tolist() == [trained] * classes
        assert approach.held_out.targets.bincount().tolist() == [held_out] * classes
        assert len(approach.memory) + len(approach.held_out) <= 26
        for target in range(task.classes.start, classes):
            first = task.train.images[task.train.targets == target][:held_out]
            assert torch.equal(approach.held_out.images[approach.held_out.targets == target], first)


def test_what_is_held_out_is_not_trained_on(toy_benchmark, toy_network, toy_trainer):
    approach, network, task = BiC(), toy_network(sizes=(2,)), toy_benchmark(validation=0)[0]
    approach.memory = Memory(12)
    approach.begin_task(task, network, toy_trainer)
    trained = {tuple(image.flatten().tolist()) for image in approach.training_set(task).samples.images}
    held_out = {tuple(image.flatten().tolist()) for image in approach.held_out.images}
    assert len(held_out) == 2
    assert len(trained) == len(task.train) - 2
    assert not trained & held_out


def test_a_large_memory_leaves_images_to_train_on(toy_benchmark, toy_network, toy_trainer):
    approach, network, task = BiC(), toy_network(sizes=(2,)), toy_benchmark(validation=0)[0]
    approach.memory = Memory(2000)
    approach.begin_task(task, network, toy_trainer)
    assert approach.training_set(task).samples.targets.bincount().tolist() == [6, 6]


@pytest.mark.parametrize("memory", [Memory(11), Memory(per_class=1)])
def test_one_exemplar_per_class_is_too_few(memory, toy_benchmark):
    with pytest.raises(ConfigurationError, match="BiC needs"):
        check(BiC(), toy_benchmark(), Training(), memory)


@pytest.mark.parametrize("settings", [{"validation": 0.0}, {"validation": 0.6}, {"bias_epochs": 0}])
def test_wrong_settings_are_named(settings):
    with pytest.raises(ConfigurationError, match=r"BiC\.validation is .* and BiC\.bias_epochs"):
        BiC(**settings)


def test_biases_of_an_exit_without_weight_are_fitted_all_the_same(toy_benchmark, toy_network, toy_learn):
    approach, network = BiC(bias_epochs=2), toy_network(Exits(["first", "second"], [0.0, 0.0]), sizes=())
    approach.memory = Memory(24)
    toy_learn(approach, network, toy_benchmark(validation=0).tasks[:2])
    assert (approach.newest != approach.earlier).all()


def test_classes_of_one_image_are_refused(toy_run, toy_benchmark):
    with pytest.raises(ConfigurationError, match="no class of task 1 has two images"):
        toy_run(BiC(bias_epochs=1), benchmark=toy_benchmark(per_class=1, validation=0), memory=12)


def test_a_class_of_one_image_among_others_is_trained_on(toy_benchmark, toy_network, toy_trainer):
    task, approach = toy_benchmark()[1], BiC()
    approach.memory = Memory(40)
    few = replace(task, train=task.train.select(torch.tensor([0, *(task.train.targets == 3).nonzero()[:, 0]])))
    kept, held_out = approach.split(few)
    assert kept.targets.bincount().tolist()[2] == 1
    assert held_out.targets.unique().tolist() == [3]


@pytest.mark.parametrize(
    ("settings", "training", "lr"),
    [({}, {"lr": 0.3}, 0.3), ({}, {"lr": 0.3, "optimizer": "adamw"}, 0.1), ({"bias_lr": 0.02}, {"lr": 0.3}, 0.02)],
)
def test_the_second_stage_has_its_own_rate(
    settings, training, lr, toy_benchmark, toy_network, toy_trainer, monkeypatch
):
    approach, network, fits = BiC(**settings), toy_network(sizes=(2, 2)), []
    monkeypatch.setattr(toy_trainer, "training", Training(schedule="constant", **training))
    monkeypatch.setattr(toy_trainer, "fit", fits.append)
    approach.newest = torch.nn.Parameter(torch.tensor([[[-0.5], [0.0]]]))
    with pytest.warns(UserWarning, match=r"negative scale to the logits of task 2.*approach\.bias_lr"):
        approach.end_task(toy_benchmark()[1], network, toy_trainer)
    assert (fits[0].training.lr, fits[0].training.optimizer) == (lr, "sgd")
