from cl_ac.report.comparison import compare
from cl_ac.report.sections import sections
from cl_ac.sparse_training.record import LayerRecord, Signals, SparseRecord


def record(seed: int, orthogonality: float, signals: Signals | None) -> SparseRecord:
    layers = [LayerRecord("a", [4, 4], 0.25, 1e-7), LayerRecord("b", [4, 4], 0.125, orthogonality)]
    return SparseRecord(0.1 + 0.02 * seed, layers, signals, [2e6, 4e6], [1e6, 1.5e6], 100, 20)


def test_sparse_runs_have_a_section(stored_run, tmp_path):
    runs = []
    for seed in (0, 1):
        runs.append(stored_run(tmp_path / str(seed), {"seed": seed}, exits=2, tasks=2))
        runs[-1].keep_sparsity(None, record(seed, 0.5 * seed, Signals(0.5 + seed, 0.1, 0.0, 2.0)))
        runs[-1].keep_sparsity(1, record(seed, 0.7, None))
    (comparison,), _ = compare(runs)
    (section,) = (section for section in sections(comparison) if section.title == "Sparse networks")
    (row,) = section.tables[0].rows
    assert [str(cell) for cell in row[1:]] == ["11.0 ± 1.4", "0.5", "1 (0 to 2)", "", "4.0", "1.5"]


def test_dense_runs_have_none(stored_run, tmp_path):
    (comparison,), _ = compare([stored_run(tmp_path / "run", {"seed": 0}, tasks=2)])
    assert "Sparse networks" not in [section.title for section in sections(comparison)]
