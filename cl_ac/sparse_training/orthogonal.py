"""Matrices that are sparse and exactly orthogonal (Exact Orthogonal Initialisation, EOI; Nowak et al., ICML 2024).

A product of random Givens rotations is orthogonal after each of them, and each makes the matrix a little denser.
Shapes: n rows, m columns, M = max(n, m). Of a tall matrix the columns are orthonormal, of a wide one the rows.
"""

import math

import numpy as np
import torch
from torch import Tensor

# Pairs per column that may bring no non-zero before no more are tried.
PATIENCE = 4


def fewest(rows: int, columns: int) -> int:
    """The smallest number of non-zeros that an orthogonal n × m matrix can have: density 1 / M."""
    return min(rows, columns)


def sparse_orthogonal(rows: int, columns: int, count: int, generator: torch.Generator) -> Tensor:
    """An exactly orthogonal n × m matrix in float64 with `count` non-zeros, or a few less where no rotation fits.

    Pairs of the M columns of the wide form, which starts as an identity, are rotated by angles uniform in [0, 2π). Both
    get the union of their supports. A rotation that would give more non-zeros than `count` is left out.

    Raises:
        ValueError: if `count` is below `fewest` or above n · m.
    """
    short, long = sorted((rows, columns))
    if not short <= count <= rows * columns:
        raise ValueError(f"an orthogonal {rows} × {columns} matrix has from {short} to {rows * columns} non-zeros")
    if count == rows * columns:
        return torch.nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float64), generator=generator)
    stream = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    # The columns to rotate lie in memory as rows.
    values = np.eye(long, short)
    support, sizes = values != 0, np.zeros(long, dtype=np.int64)
    sizes[:short] = 1
    present, idle = short, 0
    while present < count and idle < PATIENCE * long:
        first, second = stream.choice(long, 2, replace=False, shuffle=False)
        union = support[first] | support[second]
        size = int(np.count_nonzero(union))
        grown = present + 2 * size - int(sizes[first] + sizes[second])
        idle = 0 if present < grown <= count else idle + 1
        if grown > count:
            continue
        angle = stream.uniform(0, 2 * math.pi)
        cosine, sine = math.cos(angle), math.sin(angle)
        left, right = values[first].copy(), values[second].copy()
        values[first], values[second] = cosine * left - sine * right, sine * left + cosine * right
        support[first] = support[second] = union
        sizes[first] = sizes[second] = size
        present = grown
    matrix = torch.from_numpy(values)
    return (matrix if rows >= columns else matrix.T).contiguous()


def rotations_needed(rows: int, columns: int, density: float) -> float:
    """How many rotations lead to a density, by the logistic growth that their mean follows; too few near density 1.

    `M / 2 · ln(p (1 − p₀) / ((1 − p) p₀))` with p₀ = 1 / M.
    """
    longest = max(rows, columns)
    start = 1 / longest
    return longest / 2 * math.log(density * (1 - start) / ((1 - density) * start))


def orthogonality_error(matrix: Tensor, gain: float = 1.0) -> float:
    """The largest entry of |W Wᵀ − σ² I| of a wide matrix, or of |Wᵀ W − σ² I| of a tall one, relative to σ².

    Args:
        matrix: W [n, m].
        gain: σ.
    """
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    gram = wide @ wide.T / gain**2
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max().item()
