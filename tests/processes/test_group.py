import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.processes.group import ALONE, Group, together
from cl_ac.processes.launch import check


@given(st.integers(1, 20), st.integers(0, 300))
def test_parts_hold_every_sample_once_and_are_as_equal_as_can_be(size, count):
    parts = [Group(rank, size).part(count) for rank in range(size)]
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))
    lengths = {part.stop - part.start for part in parts}
    assert max(lengths) - min(lengths) <= 1


def test_a_process_that_nobody_started_others_beside_is_alone():
    with together() as group:
        assert group == ALONE
        assert group.is_first


@pytest.mark.parametrize(
    ("devices", "device", "told"),
    [(100_000, "cpu", "devices is 100000, but this machine has"), (2, "cuda:1", "device is 'cuda:1'")],
)
def test_more_devices_than_there_are_is_told(devices, device, told):
    with pytest.raises(ConfigurationError, match=told):
        check(devices, device)
