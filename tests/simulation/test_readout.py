import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from cl_ac.simulation.readout import CHANNELS, channel_masks, channel_sums, wasserstein


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_wasserstein_is_that_of_scipy(first, second, seed):
    draws = np.random.default_rng(seed)
    a, b = draws.integers(0, 6, (first, 3)), draws.normal(1, 3, (second, 3))
    found = wasserstein(torch.from_numpy(a), torch.from_numpy(b))
    expected = [wasserstein_distance(x, y) for x, y in zip(a.T, b.T, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (5, 7)])
def test_each_cell_is_read_by_one_channel(shape):
    masks = channel_masks(*shape)
    assert len(masks) == len(CHANNELS)
    assert (masks.sum(0) == 1).all()


def test_channels_by_hand():
    image = torch.arange(16.0).view(1, 4, 4)
    # Dark: (0,0) (0,2) (1,1) (1,3) …; upper left, of the others: (0,1) and (1,0).
    assert channel_sums(image)[0].tolist() == [60, 1 + 4, 3 + 6, 9 + 12, 11 + 14]
