"""Disjoint exactly orthogonal shares of a layer's weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.importance.disjoint import check_layers, give_share, orthogonal_share, parts_of


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.data())
def test_shares_are_disjoint_and_orthogonal_to_the_last_digits(rows, columns, data):
    tasks = data.draw(st.integers(1, max(rows, columns)))
    shares = [
        orthogonal_share(rows, columns, task, tasks, torch.Generator().manual_seed(task)) for task in range(tasks)
    ]
    for values, mask in shares:
        wide = values.numpy() if rows <= columns else values.numpy().T
        np.testing.assert_allclose(wide @ wide.T, np.eye(len(wide)), atol=1e-12)
        assert (values[~mask] == 0).all()
    assert torch.stack([mask for _, mask in shares]).sum(0).max() <= 1
    # Each short side has as many weights in each of its rows: one part of the long one.
    assert {int(mask.sum()) for _, mask in shares} == {rows * columns // parts_of(max(rows, columns), tasks)}


def test_a_side_is_cut_into_the_fewest_equal_parts():
    assert [parts_of(12, tasks) for tasks in (1, 2, 5, 7, 12)] == [1, 2, 6, 12, 12]


def test_a_convolution_keeps_the_norm_of_its_input():
    layer = nn.Conv2d(6, 6, 3, padding=1, bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    mask = give_share(layer.weight, 1, 3, torch.Generator().manual_seed(0))
    images = torch.randn(2, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(images).norm(dim=1), images.norm(dim=1))
    assert mask.sum() == 6 * 2 * 9


@pytest.mark.parametrize(
    ("layer", "told"),
    [(nn.Conv2d(8, 8, 3, groups=8), "without groups"), (nn.Linear(2, 3), "tasks is 4"), (nn.Embedding(9, 9), "Embed")],
)
def test_a_layer_that_cannot_be_shared_is_named(layer, told):
    with pytest.raises(ConfigurationError, match=rf"{told}.*PackNet|{told}.*wider"):
        check_layers(nn.Sequential(layer), 4)
