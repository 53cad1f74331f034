import math

import pytest
import torch
from scipy.signal import lfilter

from cl_ac.sound.phases import all_passed, mangled


def test_a_clip_is_filtered_as_by_a_recursion_in_time():
    clips = torch.randn(2, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([0.01, 0.5], dtype=torch.float64)
    for clip, angle, found in zip(clips, angles, all_passed(clips, angles), strict=True):
        middle = -2 * 0.99 * math.cos(angle)
        expected = lfilter([0.99**2, middle, 1], [1, middle, 0.99**2], clip.numpy())
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-7, rtol=0)


def test_magnitudes_stay_and_phases_turn():
    clip = torch.zeros(1, 4096, dtype=torch.float64)
    clip[0, 0] = 1
    spectrum = torch.fft.rfft(all_passed(clip, torch.tensor([0.3])))
    torch.testing.assert_close(spectrum.abs(), torch.ones_like(spectrum.abs()), atol=1e-6, rtol=0)
    assert spectrum.angle().abs().max() > 3


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (0.8, 80), (1.0, 100)])
def test_a_share_of_the_clips_has_other_phases(share, changed):
    clips = torch.randn(100, 64)
    found = mangled(clips, 8000, share, torch.Generator().manual_seed(1))
    assert abs((found != clips).any(1).sum() - changed) <= (10 if 0 < share < 1 else 0)


def test_draws_are_those_of_the_stream():
    clips = torch.randn(4, 64)
    once, again, other = (mangled(clips, 8000, 1.0, torch.Generator().manual_seed(seed)) for seed in (2, 2, 3))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
