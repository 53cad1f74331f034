"""Texts as rows of numbers and hidden states with their masks, against plain Python."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.data.layouts import condensed, read, read_shape
from cl_ac.data.texts import PADDING, joined, padded, parted, tokens


def test_texts_are_padded_behind_their_ends():
    stored = padded([[5, 6, 7], [8]], 4)
    assert stored.dtype == torch.int32
    assert stored[:, 0, 0].tolist() == [[5, 6, 7, PADDING], [8, PADDING, PADDING, PADDING]]


def test_a_batch_is_as_long_as_its_longest_text():
    numbers, real = tokens(padded([[5, 6], [8]], 9).float())
    assert numbers.tolist() == [[5, 6], [8, 0]]
    assert real.tolist() == [[True, True], [True, False]]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_readings_leave_padding_out(lengths):
    longest = max(lengths)
    values = torch.randn(len(lengths), longest, 3)
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    hidden = joined(values.masked_fill(~real[:, :, None], torch.inf), real)
    expected = {
        "text_class": [row[0] for row in values],
        "text_mean": [row[:count].mean(0) for row, count in zip(values, lengths, strict=True)],
        "text_last": [row[count - 1] for row, count in zip(values, lengths, strict=True)],
    }
    for layout, rows in expected.items():
        found = read(hidden, layout)
        assert found.shape[1:] == read_shape((longest, 4), layout) == (1, 3)
        assert torch.allclose(found[:, 0], torch.stack(rows), atol=1e-6)
        # What is kept of it reads the same.
        assert condensed(hidden, layout).shape == (len(lengths), 1, 4)
        assert torch.equal(read(condensed(hidden, layout), layout), found)


def test_a_mask_survives_half_precision():
    real = torch.tensor([[True, False]])
    _, found = parted(joined(torch.randn(1, 2, 3, dtype=torch.bfloat16), real))
    assert torch.equal(found, real)
