import pytest
import torch

from cl_ac.kernels.cost import (
    CPU,
    HOPPER_16_BIT,
    TOKEN_TILE,
    Usage,
    Workload,
    independent_usage,
    machine_for,
    measured_usage,
    predicted_cost,
)
from cl_ac.kernels.experts import ONEDNN_MACS, ONEDNN_ROWS

VIT = Workload(tokens=50432, width=768, experts=24, neurons=128, matrices=2, itemsize=2)
LLM = Workload(tokens=1, width=4096, experts=112, neurons=128, matrices=3, itemsize=2)


def test_measured_usage_counts_pairs_tiles_and_union():
    mask = torch.zeros(2 * TOKEN_TILE, 4, dtype=torch.bool)
    mask[:TOKEN_TILE, 0] = True
    mask[-1, 1] = True
    assert measured_usage(mask) == pytest.approx(Usage((TOKEN_TILE + 1) / mask.numel(), 0.25, 0.5))
    assert measured_usage(mask[:0]) == Usage(0.0, 0.0, 0.0)


def test_independent_usage_is_the_mean_of_random_masks():
    masks = [torch.rand(8, 500) < 0.1 for _ in range(20)]
    measured = torch.tensor([measured_usage(mask) for mask in masks]).mean(0)
    torch.testing.assert_close(measured, torch.tensor(independent_usage(0.1, 8)), atol=0.01, rtol=0)


def test_dense_cost_is_the_roofline_of_the_vit_layer():
    cost = predicted_cost(
        VIT, independent_usage(0.25, VIT.tokens), HOPPER_16_BIT, single_launch=False, token_major=True
    )
    assert cost.dense == pytest.approx(4 * 50432 * 768 * 3072 / 670e12, rel=0.05)


def test_large_decode_pays_and_small_decode_does_not():
    """At D=768 an FFN takes less time than the launches of router, gate and sparse kernel."""
    usage = independent_usage(0.1, 1)
    large = predicted_cost(LLM, usage, HOPPER_16_BIT, single_launch=True, token_major=True)
    assert large.pays
    assert 5 < large.dense / large.sparse < 10
    small = LLM._replace(width=768, experts=24, matrices=2)
    assert not predicted_cost(small, usage, HOPPER_16_BIT, single_launch=True, token_major=True).pays


def test_random_masks_over_a_tile_do_not_pay_where_clustered_ones_do():
    random = predicted_cost(
        VIT, independent_usage(0.25, VIT.tokens), HOPPER_16_BIT, single_launch=False, token_major=True
    )
    clustered = predicted_cost(VIT, Usage(0.25, 0.33, 1.0), HOPPER_16_BIT, single_launch=False, token_major=True)
    assert not random.pays
    assert clustered.pays


@pytest.mark.parametrize("token_major", [True, False])
@pytest.mark.parametrize("work", [VIT, LLM, LLM._replace(tokens=4)])
def test_running_everything_never_pays(work: Workload, token_major: bool):
    machine = HOPPER_16_BIT if token_major else CPU
    assert not predicted_cost(work, Usage(1.0, 1.0, 1.0), machine, single_launch=False, token_major=token_major).pays


def test_sparse_cost_grows_with_usage():
    costs = [
        predicted_cost(VIT, independent_usage(share, VIT.tokens), CPU, single_launch=False, token_major=False).sparse
        for share in (0.05, 0.1, 0.3, 0.9)
    ]
    assert costs == sorted(costs)


def test_machines_by_device():
    assert machine_for("cpu", torch.bfloat16) is CPU
    assert machine_for("cuda", torch.bfloat16) is HOPPER_16_BIT
    assert machine_for("cuda", torch.float32).flops < HOPPER_16_BIT.flops


def test_a_few_tokens_on_a_cpu_pay_for_large_matrices_only():
    """At D=768 operations on single experts cost more than the reading of weights that they save."""
    usage = independent_usage(0.33, 4)
    large = predicted_cost(
        LLM._replace(tokens=4, matrices=2, itemsize=4), usage, CPU, single_launch=False, token_major=False
    )
    small = predicted_cost(VIT._replace(tokens=4, itemsize=4), usage, CPU, single_launch=False, token_major=False)
    assert large.pays
    assert not small.pays


def test_a_large_product_of_several_rows_is_half_a_pass_more():
    machine, size = CPU._replace(flops=1e30, bandwidth=1.0), 4 * ONEDNN_MACS / ONEDNN_ROWS
    assert machine.product_seconds(0.0, size, size, rows=ONEDNN_ROWS) == 1.5 * size
    assert machine.product_seconds(0.0, size, size - 8, rows=ONEDNN_ROWS) == 2 * size


def test_one_row_reads_its_matrix_once_and_two_rows_copy_it():
    machine = CPU._replace(flops=1e30, bandwidth=1.0, packing_cache=100.0)
    assert machine.product_seconds(0.0, weights=50.0, matrix=50.0, rows=1) == 50
    assert machine.product_seconds(0.0, weights=50.0, matrix=50.0, rows=2) == 100
    assert machine.product_seconds(0.0, weights=200.0, matrix=200.0, rows=7) == 600


# Dense over sparse milliseconds of one token, float32, one thread of an AMD EPYC, November 2026.
MEASURED = {
    (128, 24, 0.5): 0.95,
    (128, 24, 0.25): 1.57,
    (128, 24, 0.1): 2.72,
    (24, 128, 0.5): 1.36,
    (24, 128, 0.25): 2.25,
    (24, 128, 0.1): 3.65,
}


@pytest.mark.parametrize(("experts", "neurons", "share"), MEASURED)
def test_one_token_on_a_cpu_is_sparse_where_that_was_faster(experts: int, neurons: int, share: float):
    work = Workload(tokens=1, width=768, experts=experts, neurons=neurons, matrices=2, itemsize=4)
    cost = predicted_cost(work, Usage(share, share, share), CPU, single_launch=False, token_major=False)
    assert cost.pays is (MEASURED[experts, neurons, share] > 1)
