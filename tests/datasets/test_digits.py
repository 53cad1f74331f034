"""scikit-learn's digits as a benchmark."""

import sys

import numpy
import torch
from sklearn.datasets import load_digits

from cl_ac.datasets import digits as module
from cl_ac.datasets.digits import Digits


def test_every_fifth_image_of_a_class_is_a_test_image():
    train, test = Digits().load()
    digits = load_digits()
    for label in range(10):
        pixels = torch.from_numpy(digits.images[digits.target == label]).mul(255 / 16).round().to(torch.uint8)
        assert torch.equal(test.images[test.targets == label][:, 0], pixels[4::5])
        rest = numpy.delete(pixels.numpy(), numpy.s_[4::5], axis=0)
        assert numpy.array_equal(train.images[train.targets == label][:, 0].numpy(), rest)


def test_normalisation_is_that_of_the_training_images():
    benchmark = Digits()
    inputs = benchmark.augmentation.apply(benchmark.load()[0].images)
    assert abs(inputs.mean()) < 0.01
    assert abs(inputs.std() - 1) < 0.01


def test_five_tasks_of_two_classes():
    benchmark = Digits(tasks=5)
    benchmark.check()
    assert benchmark.sizes == [2] * 5
    assert benchmark.input_shape == (1, 8, 8)
    for task in benchmark:
        assert task.train.images.dtype == torch.uint8
        assert len(task.train) + len(task.validation) > 280
        assert len(task.test) in range(70, 73)


def test_digits_do_not_wait_for_scikit_learn_unless_its_file_lies_elsewhere(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)
        pixels, targets = module.stored_digits()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for found, expected in zip((pixels, targets), module.stored_digits(), strict=True):
        assert torch.equal(found, expected)
