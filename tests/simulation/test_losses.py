import math

import pytest
import torch
import torch.nn.functional as F

from cl_ac.simulation.losses import brightest, diversity, fake_loss, intensity, position, real_loss


def test_adversarial_losses_are_binary_cross_entropies():
    logits = torch.tensor([-2.0, 0.0, 3.0])
    for loss, target in ((real_loss, torch.ones(3)), (fake_loss, torch.zeros(3))):
        expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        assert torch.allclose(loss(logits), expected)


def test_diversity_by_hand():
    noise = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[2.0, 4.0], [1.0, 2.0]]])  # distances 3 and 0.5
    features = torch.tensor([[[0.0], [1.0]], [[1.5], [1.0]]])  # distances 1.5 and 0
    spread = torch.tensor([0.2, 1.0])
    first, second = diversity(features, noise, spread, strength=0.1).tolist()
    assert first == pytest.approx(0.6 * 0.2 * 0.1 / (1.5 / (3 + 1e-5) + 1e-5), rel=1e-5)
    assert second == pytest.approx(0.6 * 1.0 * 0.1 / 1e-5, rel=1e-5)


def test_diversity_asks_for_nothing_where_real_samples_do_not_differ():
    assert diversity(torch.zeros(2, 3, 4), torch.randn(2, 3, 2), torch.zeros(3)).tolist() == [0, 0, 0]


def test_intensity_is_the_difference_of_photon_sums():
    made = torch.tensor([[[0.0, math.log(3.0)]], [[math.log(2.0), math.log(2.0)]]])  # 0 + 2 and 1 + 1 photons
    assert intensity(made, torch.tensor([5.0, 1.0])).tolist() == pytest.approx([3.0, 1.0])


def test_position_of_the_brightest_cell():
    images = torch.zeros(2, 3, 4)
    images[0, 2, 1], images[1, 0, 3] = 7.0, 2.0
    assert brightest(images).tolist() == [[2, 1], [0, 3]]
    assert position(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 2.0]])).tolist() == [(4 + 1) / 2]
