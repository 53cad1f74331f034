"""The page of data sets names each of them."""

import re
from pathlib import Path

from cl_ac.benchmark import Benchmark
from cl_ac.settings.plugins import classes

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_data_set_has_a_row():
    table = PAGE.read_text().partition("D: `--benchmark.download")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    named = [name for row in rows[1:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(classes("benchmark", Benchmark))
