import pytest

from cl_ac.report.comparison import compare


@pytest.fixture
def make_comparison(stored_run, tmp_path):
    """Compares two seeds of some approaches with and without ACs."""

    def make(*approaches: str, **kept: bool):
        runs = [
            stored_run(
                tmp_path / "".join(approaches) / f"{name}{exits}{seed}",
                {"approach": {"class_path": name}, "exits": exits, "seed": seed},
                exits=3 if exits else 1,
                **kept,
            )
            for name in approaches
            for exits in (None, "sdn")
            for seed in (0, 1)
        ]
        return compare(runs)[0][0]

    return make
