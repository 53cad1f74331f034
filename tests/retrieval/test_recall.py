"""Recall at k and what becomes of it, against sorting by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.retrieval.recall import average_recall, lost_recall, recall, transferred_recall, unseen_recall


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 12))
def test_it_is_what_sorting_finds(seed, queries, items):
    draw = np.random.default_rng(seed)
    similarities = draw.permutation(queries * items).reshape(queries, items).astype(float)  # no ties
    matches = draw.random((queries, items)) < 0.3
    found = recall(torch.from_numpy(similarities), torch.from_numpy(matches), (1, 3))
    hits = [
        [row[np.argsort(-scores)[:k]].any() for k in (1, 3)]
        for scores, row in zip(similarities, matches, strict=True)
        if row.any()
    ]
    if hits:
        assert found.tolist() == pytest.approx(np.mean(hits, 0).tolist())
    else:
        assert found.isnan().all()


def test_what_is_no_number_finds_nothing():
    matches = torch.eye(12) > 0
    assert recall(torch.full((12, 12), torch.nan), matches).tolist() == [0, 0, 0]
    similarities = torch.eye(12)
    similarities[:, 0] = torch.nan
    assert recall(similarities, matches).tolist() == pytest.approx([0, 11 / 12, 11 / 12])


def test_answers_that_tell_nothing_apart_find_nothing():
    matches = torch.eye(4, dtype=torch.bool)
    assert recall(torch.ones(4, 4), matches, (1, 3, 4)).tolist() == [0, 0, 1]


def test_measures_of_a_matrix_by_hand():
    # Rows: before all, and after each of two domains; columns: these two and an unseen one.
    recalls = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.4, 0.3], [0.5, 0.8, 0.25]])[..., None]
    assert average_recall(recalls, 2).item() == pytest.approx(0.65)
    assert lost_recall(recalls, 2).item() == pytest.approx(0.4)
    assert transferred_recall(recalls, 2).item() == pytest.approx(0.4 - 0.2)
    assert unseen_recall(recalls, 2).item() == pytest.approx(0.25)
    assert unseen_recall(recalls[:, :2], 2) is None
    # A domain that its own learning spoils has nothing to forget.
    assert lost_recall(torch.tensor([[0.9, 0.9], [0.5, 0.8], [0.5, 0.7]])[..., None], 2).item() == 0
