import math

import pytest
import torch
from torch import nn

from cl_ac.backbones.vit import MLP
from cl_ac.efficiency.effective_rank import EffectiveRank, effective_ranks


def rank_of(*parts: torch.Tensor) -> float:
    rank = EffectiveRank()
    for part in parts:
        rank.update(part)
    return rank.value()


def test_equals_the_singular_values_of_the_stack():
    values = torch.randn(50, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    singular = torch.linalg.svdvals(values)
    shares = singular / singular.sum()
    expected = math.exp(-(shares * shares.log()).sum())
    assert rank_of(values) == pytest.approx(expected)
    assert rank_of(values[:7], values[7:].view(1, 43, 12)) == pytest.approx(expected)


def test_closed_forms():
    assert rank_of(torch.eye(6)) == pytest.approx(6)
    # The small singular values of a matrix of rank 1 are roots of rounding errors.
    assert rank_of(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 7))) == pytest.approx(1, abs=1e-5)
    # Singular values 3 and 1: exp of the entropy of (3/4, 1/4).
    assert rank_of(torch.tensor([[3.0, 0.0], [0.0, 1.0]])) == pytest.approx(4 / 3**0.75)
    assert math.isnan(EffectiveRank().value())


def test_of_each_tensor_of_a_model():
    torch.manual_seed(0)
    model, tokens = nn.Sequential(MLP(6, 9)).eval(), torch.randn(4, 5, 6)
    ranks = effective_ranks(model, lambda model: model(tokens))
    hidden = model[0].activation(model[0].up(tokens))
    assert ranks["0"] == {
        "input": pytest.approx(rank_of(tokens)),
        "up": pytest.approx(rank_of(model[0].up(tokens))),
        "intermediate": pytest.approx(rank_of(hidden)),
    }
