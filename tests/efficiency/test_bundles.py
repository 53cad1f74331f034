import pytest
import torch

from cl_ac.efficiency.bundles import bundle_experts, bundle_mask, bundled_ffn, bundled_weights, inflation
from cl_ac.errors import ConfigurationError
from cl_ac.kernels.experts import Experts, dense_ffn


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_experts_that_run_together_are_tied():
    # Three patterns of use over eight experts: {0, 5, 6, 7}, {1, 2} and {3, 4}.
    groups = torch.tensor([0, 1, 1, 2, 2, 0, 0, 0])
    mask = torch.randint(3, (300, 1), generator=torch.Generator().manual_seed(0)) == groups
    assert sorted(map(tuple, bundle_experts(mask, 2).tolist())) in (
        [(0, 5), (1, 2), (3, 4), (6, 7)],
        [(0, 6), (1, 2), (3, 4), (5, 7)],
        [(0, 7), (1, 2), (3, 4), (5, 6)],
    )
    order = bundle_experts(mask, 2).flatten()
    assert inflation(mask[:, order], 2) == 1
    tied = bundle_experts(mask, 4)
    assert (0, 5, 6, 7) in map(tuple, tied.tolist())
    # The other bundle holds two patterns and executes four experts where one of them needs two.
    needed = torch.tensor([4, 2, 2])[mask[:, [0, 1, 3]].int().argmax(1)].sum().item()
    assert inflation(mask[:, tied.flatten()], 4) == pytest.approx(4 * len(mask) / needed)


def test_no_bundles_are_cheaper_than_those_found_among_four_experts():
    mask = torch.rand(200, 4, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.2, 0.4, 0.3, 0.1])
    mask[:, 2] |= mask[:, 0]
    found = inflation(mask[:, bundle_experts(mask, 2).flatten()], 2)
    pairings = ([0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2])
    assert found == pytest.approx(min(inflation(mask[:, pairing], 2) for pairing in pairings))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_bundles_compute_the_fine_experts(gated, share):
    gate = (random(8, 3, 6), random(8, 3)) if gated else (None, None)
    experts = Experts(random(8, 3, 6), random(8, 3, 6) + 1, "relu", random(8, 3) + 2, random(6), *gate)
    x = random(20, 6)
    mask = torch.rand(20, 8, generator=torch.Generator().manual_seed(2)) < share
    torch.testing.assert_close(bundled_ffn(x, mask, experts, 4), dense_ffn(x, mask, experts))
    union = dense_ffn(x, bundle_mask(mask, 4), bundled_weights(experts, 4))
    torch.testing.assert_close(union, dense_ffn(x, bundle_mask(mask, 4).repeat_interleave(4, 1), experts))


@pytest.mark.parametrize("size", [0, 3, 8])
def test_sizes_that_do_not_fit_are_one_sentence(size):
    with pytest.raises(ConfigurationError, match=rf"experts\.bundle is {size}; with 12 experts"):
        bundle_experts(torch.ones(4, 12, dtype=torch.bool), size)
