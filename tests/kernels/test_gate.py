import pytest
import torch

from cl_ac.kernels.gate import max_rule


@pytest.mark.parametrize(
    ("predictions", "kept"),
    [
        ([4.0, 2.0, 1.9, 0.0], [True, True, False, False]),
        ([3.0, 3.0, 1.0, 1.0], [True, True, False, False]),
        ([0.0, 0.0, 0.0, 0.0], [True, True, True, True]),
        ([-4.0, -1.0, -2.0, -1.0], [False, True, False, True]),
        ([1.0, torch.nan, 0.0, 0.0], [True, True, True, True]),
        ([torch.inf, 1.0, 0.0, 0.0], [True, True, True, True]),
        ([1.0, -torch.inf, 0.0, 0.5], [True, False, False, True]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_what_is_near_the_largest(predictions: list[float], kept: list[bool], dtype: torch.dtype):
    assert max_rule(torch.tensor([predictions], dtype=dtype), 0.5).tolist() == [kept]


def test_compiles_whole_and_keeps_leading_axes():
    predictions = torch.randn(2, 3, 5).abs()
    compiled = torch.compile(lambda p: max_rule(p * 2, 0.3), fullgraph=True, backend="aot_eager")
    assert compiled(predictions).shape == (2, 3, 5)
    assert torch.equal(compiled(predictions), max_rule(predictions, 0.3))
    assert max_rule(predictions[:0], 0.3).shape == (0, 3, 5)


def test_rejects_a_threshold_that_is_no_share():
    with pytest.raises(ValueError, match=r"threshold is 1.5; expected a share .* in \[0, 1\]"):
        max_rule(torch.zeros(1, 2), 1.5)
