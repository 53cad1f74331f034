"""Networks from time to amplitude."""

import math

import pytest
import torch

from cl_ac.errors import ConfigurationError
from cl_ac.sound.single import fit_clip, fresh
from cl_ac.sound.targets import FourierTarget, SirenTarget, moments


def test_moments_of_twice_the_rate_have_the_moments_of_the_rate_among_them():
    assert moments(4)[:, 0].tolist() == [-1, -0.5, 0, 0.5]
    assert torch.equal(moments(100, 2.0)[::2], moments(100))
    assert len(moments(100, 1.5)) == 150


def test_a_fourier_target_by_hand():
    target = FourierTarget(width=1, depth=1, frequencies=2)
    with torch.no_grad():
        target.layers[0].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        target.layers[0].bias.fill_(0.5)
        target.layers[1].weight.fill_(2.0)
        target.layers[1].bias.fill_(-1.0)
    time = 0.3
    angles = [math.pi * time, 2 * math.pi * time]
    hidden = math.sin(angles[0]) + 2 * math.sin(angles[1]) + 3 * math.cos(angles[0]) + 4 * math.cos(angles[1]) + 0.5
    assert target(torch.tensor([[time]])).item() == pytest.approx(2 * max(hidden, 0) - 1, rel=1e-5)


def test_a_siren_target_by_hand():
    target = SirenTarget(width=1, depth=2, first=5.0, later=3.0)
    (a, p), (b, q), (c, r) = ((layer.weight.item(), layer.bias.item()) for layer in target.layers)
    expected = c * math.sin(3 * (b * math.sin(5 * (a * 0.3 + p)) + q)) + r
    assert target(torch.tensor([[0.3]])).item() == pytest.approx(expected, rel=1e-4)


def test_a_single_clip_is_learned_and_the_same_again():
    wave = (2 * torch.pi * 3 * torch.arange(64) / 64).sin()
    like = FourierTarget(8, 1, 4)
    first, second = (fit_clip(fresh(like, 0), wave, steps=150) for _ in range(2))
    assert (first - wave).square().mean().item() < 0.02
    assert torch.equal(first, second)


def test_sizes_of_nothing_are_refused():
    with pytest.raises(ConfigurationError, match=r"target\.width is 0"):
        FourierTarget(width=0)
    with pytest.raises(ConfigurationError, match=r"target\.depth is 0"):
        SirenTarget(depth=0)
    with pytest.raises(ConfigurationError, match="0 steps"):
        fit_clip(FourierTarget(), torch.zeros(4), steps=0)
