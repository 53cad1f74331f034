"""The lapped transform, and a codec that keeps its largest coefficients."""

import pytest
import torch
from scipy.fft import dct

from cl_ac.errors import ConfigurationError
from cl_ac.sound.codec import keep_largest, lapped, unlapped


@pytest.fixture
def waves():
    return torch.randn(3, 90, generator=torch.Generator().manual_seed(0))


def test_nothing_is_lost_if_all_is_kept(waves):
    torch.testing.assert_close(unlapped(lapped(waves, 16), 16)[:, :90], waves, atol=1e-5, rtol=1e-5)


def test_energy_is_kept(waves):
    torch.testing.assert_close(lapped(waves, 16).square().sum((1, 2)), waves.square().sum(1), atol=1e-3, rtol=1e-4)


def test_the_transform_is_a_folded_cosine_transform_of_type_four(waves):
    size = 16
    frame = waves[0, :32] * torch.sin(torch.pi * (torch.arange(32) + 0.5) / 32)
    a, b, c, d = frame.split(size // 2)
    folded = torch.cat([-c.flip(0) - d, a - b.flip(0)])
    expected = dct(folded.numpy(), type=4, norm="ortho")
    torch.testing.assert_close(lapped(waves[:1], size)[0, 1], torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


def test_a_kept_coefficient_takes_two_numbers_and_the_largest_are_kept(waves):
    found = keep_largest(waves, 2 * 10, 16)
    largest = lapped(waves, 16).flatten(1).square().topk(10, 1).values.sum(1)
    # A wave is cut to its length, which can only lose energy.
    assert (found.square().sum(1) <= largest + 1e-4).all()
    assert (found - waves).square().sum() < (keep_largest(waves, 2 * 5, 16) - waves).square().sum()


def test_a_codec_of_nothing_is_refused(waves):
    with pytest.raises(ConfigurationError, match="at least 2"):
        keep_largest(waves, 1)
