import io

from rich.console import Console

from cl_ac.recording.progress import phases


def test_elsewhere_than_in_a_terminal_a_phase_is_a_line_when_it_is_done():
    told = io.StringIO()
    with phases(Console(file=told)) as progress:
        progress("cutting", 1, 2)
        assert not told.getvalue()
        progress("cutting", 2, 2)
        progress("sweeping", 1, 1)
    assert told.getvalue().splitlines() == ["cutting: done", "sweeping: done"]
