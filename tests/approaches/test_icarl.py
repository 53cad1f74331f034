"""iCaRL: its loss by hand, its teacher, and that nearest means answer."""

import math

import pytest
import torch
import torch.nn.functional as F

from cl_ac.approach import Batch
from cl_ac.approaches.icarl import ICaRL
from cl_ac.classifiers.nearest_mean import NearestMean
from cl_ac.memory import Memory


def test_loss_is_cross_entropy_over_all_classes_and_binary_distillation(toy_network, toy_benchmark):
    task = toy_benchmark()[1]
    approach, old = ICaRL(strength=0.7), toy_network("sdn", (2,), seed=1).eval()
    approach.teacher.update(old)
    network = toy_network("sdn", (2, 2)).eval()
    targets = [2, 0, 3]
    batch = Batch(torch.randn(3, 1, 6, 6), torch.tensor(targets), task)
    student, teacher = network(batch.images).tolist(), old(batch.images).tolist()

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    for index, loss in enumerate(approach.loss(network, batch).tolist()):
        expected = 0.0
        for z, t, target in zip(student[index], teacher[index], targets, strict=True):
            expected += (math.log(sum(math.exp(v) for v in z)) - z[target]) / 3
            for c in range(2):
                q, p = sigmoid(t[c]), sigmoid(z[c])
                expected -= 0.7 * (q * math.log(p) + (1 - q) * math.log(1 - p)) / 3
        assert loss == pytest.approx(expected, rel=1e-4)


def test_the_first_task_has_no_teacher(toy_network, toy_benchmark):
    batch = Batch(torch.randn(3, 1, 6, 6), torch.tensor([0, 1, 1]), toy_benchmark()[0])
    assert ICaRL().loss(toy_network("sdn"), batch).shape == (3,)


def test_distillation_leaves_the_teacher_alone(toy_network, toy_benchmark):
    approach, network = ICaRL(), toy_network("sdn", (2, 2))
    approach.teacher.update(toy_network("sdn", (2,)))
    batch = Batch(torch.randn(3, 1, 6, 6), torch.tensor([2, 0, 3]), toy_benchmark()[1])
    before = {name: value.clone() for name, value in approach.teacher.state_dict().items() if torch.is_tensor(value)}
    approach.loss(network, batch).sum().backward()
    assert all(parameter.grad is None for parameter in approach.teacher.parameters())
    assert all(torch.equal(value, approach.teacher.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is not None for parameter in network.backbone.parameters())


def test_nearest_means_answer(toy_run):
    approach = ICaRL()
    directory = toy_run(approach, exits="sdn", memory=12)
    assert isinstance(approach.inference, NearestMean)
    logits = directory.outputs(2).logits
    # Cosines divided by the temperature, less a constant for each sample.
    assert (logits.amax(-1) - logits.amin(-1)).max() <= 2 / approach.inference.temperature
    assert logits.softmax(-1).sum(-1).allclose(torch.ones(3, logits.shape[1]))


def test_means_of_new_classes_are_those_of_their_exemplars(toy_learn, toy_network, toy_benchmark, toy_trainer):
    approach, network = ICaRL(), toy_network("sdn", ())
    approach.memory = Memory(8, selection="herding")
    tasks = toy_benchmark().tasks[:2]
    toy_learn(approach, network, tasks)
    classifier = approach.inference_classifier()
    classifier.update(tasks[1], network, toy_trainer, approach.memory)
    features = toy_trainer.predict(
        network, approach.memory.samples, lambda images: classifier.features(network, images)
    )
    for index, part in enumerate(features):
        unit = F.normalize(part)
        means = torch.stack([F.normalize(unit[approach.memory.targets == c].mean(0), dim=0) for c in range(4)])
        torch.testing.assert_close(getattr(classifier, f"means_{index}"), means)
