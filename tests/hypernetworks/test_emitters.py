"""What conditions become: vectors of weights, all at once or in chunks."""

import math

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.emitters import ChunkedEmitter, Emitter, linears
from cl_ac.hypernetworks.layout import Layout, Spread, spread

FLAT = Spread(torch.zeros(5), torch.ones(5))


@pytest.mark.parametrize("chunk", [0, 700])
def test_emitted_layers_keep_the_variance_of_what_passes_through(chunk):
    target = nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 50))
    layout = Layout.of(target)
    first = spread(target, layout)
    made = ChunkedEmitter(16, (64,), first, chunk, 16) if chunk else Emitter(16, (64,), first)
    made.reset(first, torch.Generator().manual_seed(0))
    conditions = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    weights = layout.split(made(conditions))
    assert weights["0.weight"].std().item() == pytest.approx(math.sqrt(1 / 40), rel=0.1)
    assert weights["2.weight"].std().item() == pytest.approx(math.sqrt(1 / 60), rel=0.1)
    assert weights["0.bias"].std().item() == pytest.approx(1, rel=0.3)


def test_a_perceptron_by_hand():
    made = Emitter(2, (2,), Spread(torch.tensor([1.0, 5.0]), torch.ones(2)))
    first, last = linears(made.layers)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        last.weight.copy_(torch.tensor([[2.0, 3.0], [4.0, 0.0]]))
    # Hidden: (3, 0) and (0, 2), after rectification.
    assert made(torch.tensor([[3.0, 4.0], [-1.0, -2.0]])).tolist() == [[7.0, 17.0], [7.0, 5.0]]


def test_chunks_are_emitted_one_after_the_other_and_the_rest_of_the_last_is_cut_off():
    made = ChunkedEmitter(3, (), Spread(torch.arange(5.0), torch.full((5,), 2.0)), chunk=2, chunk_inputs=4)
    condition = torch.randn(2, 3)
    (layer,) = linears(made.layers)
    for row, value in zip(made(condition), condition, strict=True):
        parts = [layer(torch.cat([value, embedding])) for embedding in made.chunks]
        torch.testing.assert_close(row, torch.arange(5.0) + 2 * torch.cat(parts)[:5])
    assert sum(p.numel() for p in made.parameters()) == 3 * 4 + 2 * (3 + 4) + 2


def test_the_same_stream_draws_the_same():
    made = ChunkedEmitter(3, (4,), FLAT, 2, 2)
    first, second = (
        [made.reset(FLAT, torch.Generator().manual_seed(seed)), made(torch.ones(1, 3))][1] for seed in (7, 7)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(("inputs", "hidden"), [(0, (4,)), (3, (0,))])
def test_sizes_of_nothing_are_refused(inputs, hidden):
    with pytest.raises(ConfigurationError, match="at least 1"):
        Emitter(inputs, hidden, FLAT)
    with pytest.raises(ConfigurationError, match="at least 1"):
        ChunkedEmitter(inputs, hidden, FLAT, 2, 2)
