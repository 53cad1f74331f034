"""What accuracy is asked for on streams, against hand-counted values."""

import pytest
import torch

from cl_ac.streams.metrics import accuracy_on, forward_transfer, missing_classes, thirds

CORRECT = torch.tensor([[True, False, True, True], [False, False, True, False]])
TARGETS = torch.tensor([0, 1, 1, 2])


def test_accuracy_on_some_classes_is_over_their_samples():
    assert accuracy_on(CORRECT, TARGETS, torch.tensor([True, True, False])).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert accuracy_on(CORRECT, TARGETS, torch.tensor([False, False, False])).isnan().all()


def test_missing_are_the_known_classes_that_did_not_come_again():
    assert missing_classes(torch.tensor([3, 1, 3]), 5).tolist() == [True, False, True, False, True]


def test_thirds_go_from_the_most_frequent_classes_to_the_rarest():
    head, medium, tail = thirds(torch.tensor([5, 100, 20, 50, 5, 6, 90]))
    assert head.nonzero()[:, 0].tolist() == [1, 3, 6]
    assert medium.nonzero()[:, 0].tolist() == [2, 5]
    assert tail.nonzero()[:, 0].tolist() == [0, 4]


@pytest.mark.parametrize("counts", [[10, 10, 10], [50, 40, 10], [500, 1]])
def test_without_a_long_tail_there_are_no_thirds(counts):
    assert thirds(torch.tensor(counts)) is None


def test_forward_transfer_is_the_mean_gain_over_an_untrained_network():
    before = torch.tensor([[0.5, 0.6], [0.7, 0.4]])
    untrained = torch.tensor([[0.1, 0.2], [0.1, 0.0]])
    assert forward_transfer(before, untrained).tolist() == pytest.approx([0.5, 0.4])
