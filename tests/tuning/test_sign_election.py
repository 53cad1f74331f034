"""Sign election, against an obvious slow twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.tuning.bank import use
from cl_ac.tuning.low_rank import add_low_rank
from cl_ac.tuning.sign_election import elect_signs


def slow(added: list[list[float]], weights: list[float], keep: float) -> list[float]:
    count = max(round(keep * len(added[0])), 1)
    trimmed = []
    for row in added:
        least = sorted(map(abs, row))[-count]
        trimmed.append([value if abs(value) >= least else 0.0 for value in row])
    merged = []
    for column in zip(*trimmed, strict=True):
        elected = sum(w * v for w, v in zip(weights, column, strict=True))
        agreeing = [(w, v) for w, v in zip(weights, column, strict=True) if v * elected > 0]
        share = sum(w for w, _ in agreeing)
        merged.append(sum(weights) * sum(w * v for w, v in agreeing) / share if share else 0.0)
    return merged


whole = st.integers(-4, 4).map(float)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda k: st.tuples(
            st.lists(st.lists(whole, min_size=5, max_size=5), min_size=k, max_size=k),
            st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=k, max_size=k),
        )
    ),
    st.sampled_from([0.2, 0.5, 1.0]),
)
def test_it_is_the_mean_of_those_that_agree(additions, keep):
    added, weights = additions
    found = elect_signs(torch.tensor(added, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64), keep)
    assert found.tolist() == pytest.approx(slow(added, weights, keep))


def test_a_bank_merges_what_its_entries_add(frozen_backbone, perturb):
    backbone = frozen_backbone("toy")
    (bank,) = add_low_rank(backbone, rank=2)
    layer = backbone.stages[1][0]
    original = layer.weight.clone()
    deltas = []
    for _ in range(2):
        perturb(backbone)
        deltas.append(layer.weight - original)
        bank.add()
    use(backbone, {0: 0.75, 1: 0.25}, elect_signs)
    merged = elect_signs(torch.stack(deltas), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(layer.weight, original + merged)
