import io

import pytest
from rich.console import Console

from cl_ac.recording.progress import RunProgress, phases
from cl_ac.recording.records import Record


def test_elsewhere_than_in_a_terminal_a_phase_is_a_line_when_it_is_done():
    told = io.StringIO()
    with phases(Console(file=told)) as progress:
        progress("cutting", 1, 2)
        assert not told.getvalue()
        progress("cutting", 2, 2)
        progress("sweeping", 1, 1)
    assert told.getvalue().splitlines() == ["cutting: done", "sweeping: done"]


@pytest.mark.parametrize(
    ("exits", "said"),
    [
        ([0.5], "accuracy 50.0 %  (2.0 s)"),
        ([0.75, 0.5], "accuracy of most confident exit 25.0 %, final exit 50.0 %  (2.0 s)"),
    ],
)
def test_an_accuracy_says_whose_it_is(exits, said):
    told = io.StringIO()
    progress = RunProgress(Console(file=told, width=200), 1)
    progress.task(Record(0, [2], [exits], [0.25], [exits], [0.25], [1.0] * len(exits), 2.0), 3)
    assert told.getvalue().strip() == f"task 1/3  {said}"
