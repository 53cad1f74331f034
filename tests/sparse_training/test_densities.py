import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.sparse_training.densities import erdos_renyi, kept_shares, share_out


@st.composite
def networks(draw):
    layers = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=8))
    shares = draw(st.lists(st.floats(0, 100), min_size=len(layers), max_size=len(layers)))
    return [rows * columns for rows, columns in layers], [min(layer) for layer in layers], shares


@given(networks(), st.floats(0.001, 1))
def test_all_layers_together_have_the_density(network, density):
    sizes, fewest, shares = network
    target = round(density * sum(sizes))
    if target < sum(fewest):
        with pytest.raises(ConfigurationError, match=r"^sparse\.density is .*; the weights of this network can be"):
            share_out(shares, sizes, fewest, density)
        return
    counts = share_out(shares, sizes, fewest, density)
    assert sum(counts) == target
    assert all(least <= count <= size for count, size, least in zip(counts, sizes, fewest, strict=True))


def test_shares_by_hand():
    # In proportion 1 : 2 : 4, the last is full, and the others have 1/4 and 1/2 of their size.
    assert share_out([1, 2, 4], [100, 100, 40], [1, 1, 1], 115 / 240) == [25, 50, 40]
    # The first needs 30, and the second has what is left.
    assert share_out([1, 1], [100, 100], [30, 1], 0.2) == [30, 10]


def test_small_layers_are_denser_by_erdos_renyi():
    assert erdos_renyi((10, 20)) == pytest.approx(30 / 200)
    assert erdos_renyi((8, 4, 3, 3)) == pytest.approx(18 / 288)


def test_the_highest_scores_of_all_layers_are_kept():
    scores = [torch.tensor([[9.0, 1.0], [8.0, 2.0]]), torch.tensor([7.0, 3.0, 4.0, 5.0])]
    assert kept_shares(scores, 0.5) == [0.5, 0.5]
    assert kept_shares(scores, 2 / 8) == [0.5, 0.0]
