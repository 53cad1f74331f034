import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.kernels.gate import max_rule
from cl_ac.kernels.plan import TOKEN_TILE, gate, plan

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = [
    *(["interpreter"] if INTERPRETED else []),
    *(["cuda"] if torch.cuda.is_available() and not INTERPRETED else []),
]
pytestmark = pytest.mark.skipif(not DEVICES, reason="no GPU; test_interpreter.py runs this file under the interpreter")


def torch_device(device: str) -> str:
    return "cpu" if device == "interpreter" else device


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    tokens=st.integers(1, 150),
    experts=st.integers(1, 70),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    row_tile=st.sampled_from([1, 16, 128]),
)
def test_lists_are_the_sorted_pairs(device: str, tokens: int, experts: int, share: float, row_tile: int):
    mask = torch.rand(tokens, experts) < share
    built = plan(mask.to(torch_device(device)), row_tile)
    token_of_pair, pair_of, expert_start, row_tile_start, tile_experts, tile_union = (part.cpu() for part in built)

    pairs = mask.t().nonzero()
    counts = mask.sum(0)
    assert token_of_pair[: len(pairs)].tolist() == pairs[:, 1].tolist()
    assert (token_of_pair[len(pairs) :] < 0).all()
    assert expert_start.tolist() == [0, *counts.cumsum(0).tolist()]
    assert row_tile_start.tolist() == [0, *(-(-counts // row_tile)).cumsum(0).tolist()]
    expected = torch.full((tokens, experts), -1, dtype=torch.int32)
    expected[pairs[:, 1], pairs[:, 0]] = torch.arange(len(pairs), dtype=torch.int32)
    assert torch.equal(pair_of, expected)
    for used, listed, tile in zip(tile_union, tile_experts, mask.split(TOKEN_TILE), strict=True):
        assert listed[:used].tolist() == tile.any(0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("experts", [1, 24, 33])
def test_gate_is_the_max_rule(device: str, threshold: float, experts: int):
    predictions = torch.randn(200, experts)
    predictions[0], predictions[1] = 0, -1
    predictions[2, -1], predictions[3, -1] = torch.nan, torch.inf
    kept = gate(predictions.to(torch_device(device)), threshold).cpu()
    assert torch.equal(kept, max_rule(predictions, threshold))
