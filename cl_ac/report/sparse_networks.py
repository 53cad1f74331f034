"""How sparse the networks of some runs are, what it does to their signals, and what it would save."""

from collections.abc import Sequence

from cl_ac.report.comparison import Group
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.sparse_training.record import SparseRecord

SPARSE_TEXT = (
    "Networks that are sparse from the first step on. Orthogonality: the largest entry of |W Wᵀ − σ² I| / σ² over all "
    "layers at the start. Jacobian: singular values of the last features' derivative with respect to the image, mean "
    "(smallest to largest) at the start and after the last task; mean over seeds. Multiply-accumulates in millions of "
    "one image through all exits after the last task; those of masked weights are left out in theory only, as dense "
    "arithmetic does them all the same."
)


def sparse_table(groups: Sequence[Group]) -> ResultTable:
    """One row for each group of sparse runs."""
    columns = ["run", "density, %", "orthogonality", "Jacobian, start", "Jacobian, end", "MACs", "sparse MACs"]
    rows: list[list[Cell]] = []
    for group in groups:
        pairs = group.sparsity
        starts, ends = [start for start, _ in pairs], [end for _, end in pairs]
        rows.append(
            [
                group.label,
                Spread(tuple(start.density for start in starts)),
                f"{max(start.orthogonality for start in starts):.2g}",
                _values(starts),
                _values(ends),
                ends[0].macs[-1] / 1e6,
                ends[0].sparse_macs[-1] / 1e6,
            ]
        )
    return ResultTable("sparse_networks", "sparse networks", columns, rows)


def _values(records: Sequence[SparseRecord]) -> str:
    """Singular values, mean over records that have some."""
    known = [record.signals for record in records if record.signals is not None]
    if not known:
        return ""
    mean, smallest, largest = (
        sum(getattr(signals, name) for signals in known) / len(known) for name in ("mean", "smallest", "largest")
    )
    return f"{mean:.2g} ({smallest:.2g} to {largest:.2g})"
