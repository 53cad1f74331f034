"""Conditions that a user brings."""

import pytest

from cl_ac.simulation.calorimeter import Calorimeter
from cl_ac.simulation.conditions import read_conditions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_of_a_spreadsheet_is_read(tmp_path, encoding):
    path = tmp_path / "conditions.csv"
    path.write_text("energy,row,column,mass,charge\n2,8,5,1,0\n", encoding=encoding)
    assert read_conditions(path, Calorimeter()).tolist() == [[2, 8, 5, 1, 0]]
