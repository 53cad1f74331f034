"""Critical sparsity on curves that are known in closed form."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cl_ac.backbones.vit import MLP
from cl_ac.efficiency.critical_sparsity import critical_sparsity, crossing
from cl_ac.efficiency.router_free import masked
from cl_ac.efficiency.sparsity_rules import TopK
from cl_ac.errors import ConfigurationError


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 1.0, 0.98, 0.5], (0.3, True)),
        ([1.0, 0.98, 1.0, 0.5], (0.4 + 0.2 * 0.01 / 0.5, True)),
        ([1.0, 0.9, 0.8, 0.7], (0.02, True)),
        ([1.0, 1.0, 0.99, 0.995], (0.6, False)),
    ],
)
def test_crossing(scores, expected):
    """Half-way between 1 and 0.98; the last of two; at once; never."""
    assert crossing([0.0, 0.2, 0.4, 0.6], scores, 0.99) == (pytest.approx(expected[0]), expected[1])


def test_a_known_curve_crosses_where_algebra_says():
    """The score 1 − s² / 2 falls to 0.99 at s = √0.02; a fine sweep must find it."""
    asked = [0.0]

    @contextmanager
    def at(level: float):
        asked.append(1 - level)
        yield SimpleNamespace(total=lambda: 1 - level)
        asked.pop()

    levels = [1 - index / 200 for index in range(100)]
    curve = critical_sparsity(nn.Identity(), lambda model: 1 - asked[-1] ** 2 / 2, at, levels)
    assert curve.critical == pytest.approx(0.02**0.5, abs=1e-3)
    assert curve.bounded
    assert (curve.dense, len(curve.points)) == (1.0, 100)
    assert all(point.sparsity == pytest.approx(1 - point.level) for point in curve.points)
    assert all(point.score == 1 - point.sparsity**2 / 2 for point in curve.points)


def test_neurons_that_do_nothing_may_go():
    """Eight of 32 neurons carry the output: dropping up to 75 % is free, and the sweep ends just there."""
    torch.manual_seed(0)
    model = nn.Sequential(MLP(8, 32, "relu")).eval().requires_grad_(False)
    mlp = model[0]
    mlp.up.bias[:8], mlp.up.bias[8:] = 5.0, 1e-3
    mlp.up.weight[8:] = 0
    mlp.down.weight[:, 8:] = 0
    tokens = torch.randn(64, 8)
    expected = model(tokens)

    def similarity(model: nn.Module) -> float:
        return float(torch.cosine_similarity(model(tokens), expected).mean())

    def at(share: float):
        return masked(model, {"intermediate": TopK(share)})

    curve = critical_sparsity(model, similarity, at, [1.0, 0.75, 0.5, 0.25, 0.125])
    free = [point.sparsity for point in curve.points if point.score > 0.9999]
    # From 16 neurons on all further ones tie, and ties are kept.
    assert max(free) == 0.75
    assert 0.75 <= curve.critical < 0.875


def test_scores_below_0_have_no_share():
    with pytest.raises(ConfigurationError, match="the dense model scores -1"):
        critical_sparsity(nn.Identity(), lambda model: -1.0, lambda level: masked(nn.Identity()))
