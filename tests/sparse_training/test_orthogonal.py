import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.sparse_training.orthogonal import fewest, orthogonality_error, rotations_needed, sparse_orthogonal


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 1000))
def test_orthogonal_at_any_shape_and_density(rows, columns, share, seed):
    least = fewest(rows, columns)
    count = least + round(share * (rows * columns - least))
    matrix = sparse_orthogonal(rows, columns, count, stream(seed))
    assert matrix.shape == (rows, columns)
    assert matrix.dtype == torch.float64
    assert orthogonality_error(matrix) < 1e-12
    assert least <= matrix.count_nonzero() <= count
    assert torch.equal(matrix, sparse_orthogonal(rows, columns, count, stream(seed)))


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (64, 200), (300, 48)])
@pytest.mark.parametrize("density", [0.01, 0.05, 0.125, 0.5, 0.9, 0.99])
def test_density_is_met(rows, columns, density):
    count = max(round(density * rows * columns), fewest(rows, columns))
    matrix = sparse_orthogonal(rows, columns, count, stream())
    assert matrix.count_nonzero().item() / matrix.numel() == pytest.approx(count / matrix.numel(), abs=0.002)


def test_another_seed_gives_another_matrix():
    assert not torch.equal(*(sparse_orthogonal(16, 16, 64, stream(seed)) for seed in (1, 2)))


def test_large_matrices_take_half_a_second():
    seconds = []
    for _ in range(3):
        # Of this process, whatever else the machine does.
        began = time.process_time()
        matrix = sparse_orthogonal(1024, 1024, round(0.05 * 1024**2), stream())
        seconds.append(time.process_time() - began)
    assert orthogonality_error(matrix) < 1e-12
    assert min(seconds) < 0.5


def test_impossible_counts_are_refused():
    for count in (7, 81):
        with pytest.raises(ValueError, match="an orthogonal 8 × 10 matrix has from 8 to 80 non-zeros"):
            sparse_orthogonal(8, 10, count, stream())


def test_rotations_needed_by_hand():
    assert rotations_needed(512, 512, 0.05) == pytest.approx(256 * math.log(0.05 * 511 / 0.95))
    assert rotations_needed(100, 30, 0.5) == pytest.approx(50 * math.log(99))


def test_error_by_hand():
    assert orthogonality_error(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), gain=2.0) == 0
    assert orthogonality_error(torch.tensor([[1.0, 0.5], [0.0, 1.0]])) == pytest.approx(0.5)
    assert orthogonality_error(torch.tensor([[3.0], [4.0]])) == pytest.approx(24)
