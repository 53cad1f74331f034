import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_ac.kernels import neuron_masks
from cl_ac.kernels.neuron_masks import threshold_mask, top_p_mask

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
WAYS = [
    "torch",
    *(["interpreter"] if INTERPRETED else []),
    *(["cuda"] if torch.cuda.is_available() and not INTERPRETED else []),
]


def sorted_top_p(values: Tensor, p: float, power: float) -> Tensor:
    """The definition: sort, add up in float64, stop at the first entry that reaches p, keep ties with it."""
    magnitude = values.double().abs()
    rows = []
    for row in magnitude:
        ordered = row.sort(descending=True).values
        mass = ordered.pow(power).cumsum(0)
        # a hair below, because the two sums add in different orders
        reached = mass >= p * mass[-1] * (1 - 1e-12)
        rows.append(row >= ordered[int(reached.int().argmax())])
    return torch.stack(rows)


def top_p(way: str, values: Tensor, p: float, power: float) -> Tensor:
    if way == "torch":
        return top_p_mask(values, p, power)
    from cl_ac.kernels.channel_kernels import top_p as launch

    return launch(values.to("cuda" if way == "cuda" else "cpu"), p, int(power)).cpu()


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 70),
    p=st.sampled_from([0.0, 0.2, 0.5, 0.9, 0.99, 1.0]),
    power=st.sampled_from([1.0, 2.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    zeros=st.booleans(),
    coarse=st.booleans(),
)
def test_equals_the_sorted_definition(
    way: str, channels: int, p: float, power: float, dtype: torch.dtype, zeros: bool, coarse: bool
):
    values = torch.randn(2, channels)
    if coarse:
        values = (values * 2).round() / 2
    if zeros:
        values[:, ::3] = 0
        values[0] = 0
    values = values.to(dtype)
    assert torch.equal(top_p(way, values, p, power), sorted_top_p(values, p, power))


@pytest.mark.parametrize("way", WAYS)
def test_rows_longer_than_a_chunk(way: str):
    values = torch.randn(2, 5000).bfloat16()
    assert torch.equal(top_p(way, values, 0.7, 1.0), sorted_top_p(values, 0.7, 1.0))


@pytest.mark.parametrize("way", WAYS)
def test_a_vector_with_nan_is_kept_whole(way: str):
    values = torch.tensor([[1.0, torch.nan, 0.0], [3.0, 1.0, 1.0]])
    assert top_p(way, values, 0.5, 1.0).tolist() == [[True, True, True], [True, False, False]]


def test_what_is_small_beside_the_rest_is_no_zero():
    values = torch.tensor([1e20, 0.0, -1.0, 1e-30])
    assert top_p_mask(values, 1.0).tolist() == [True, False, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_infinite_entries_are_all_the_mass_there_is(dtype: torch.dtype):
    values = torch.tensor([[1.0, torch.inf, 2.0, -torch.inf]], dtype=dtype)
    assert top_p_mask(values, 0.5).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1), (0.4, 1), (0.41, 3), (0.8, 3), (0.81, 5), (1.0, 5)])
def test_a_share_that_is_reached_exactly_is_enough_and_ties_stay(p: float, kept: int):
    values = torch.tensor([1.0, -4.0, 0.0, 2.0, -1.0, -2.0])
    assert top_p_mask(values, p).sum() == kept


def test_sorting_is_the_same_on_every_device():
    codes = torch.randint(0, 2**15, (3, 50), dtype=torch.int16)

    class Elsewhere(Tensor):
        device = torch.device("mps")

    assert torch.equal(neuron_masks._ascending(codes), neuron_masks._ascending(codes.as_subclass(Elsewhere)))


def test_other_powers_and_empty_input():
    values = torch.randn(3, 40)
    assert torch.equal(top_p_mask(values, 0.6, 1.5), sorted_top_p(values, 0.6, 1.5))
    assert top_p_mask(values[:0], 0.6).shape == (0, 40)


def test_threshold_keeps_what_exceeds_it():
    values = torch.tensor([[-2.0, 1.0, 0.5], [-1.0, 3.0, 0.0]])
    assert threshold_mask(values, 1.0).tolist() == [[True, False, False], [False, True, False]]
    assert threshold_mask(values, torch.tensor([[1.0], [0.0]])).tolist() == [[True, False, False], [True, True, False]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1.5, 1.0), "p is 1.5"), ((0.5, 0.0), "power is 0.0; expected a positive number")],
)
def test_rejects_bad_arguments(arguments: tuple[float, float], message: str):
    with pytest.raises(ValueError, match=message):
        top_p_mask(torch.ones(2), *arguments)
    with pytest.raises(ValueError, match=r"float64; supported: torch\.float32"):
        top_p_mask(torch.ones(2, dtype=torch.float64), 0.5)
