import io

from rich.console import Console

from cl_ac.recording.progress import Standing
from cl_ac.studies import progress as module
from cl_ac.studies.progress import StudyProgress, left_text, standing_text


def test_a_line_says_task_epoch_and_accuracy_so_far():
    standing = Standing(tasks=5, finished=1, epoch=3, epochs=10, done=13, total=50, accuracy=0.8125)
    assert standing_text(standing) == "task 2/5  epoch 3/10  81.2 % so far"
    assert standing_text(Standing(5, 0, 0, 10, 0, 50, None)) == "task 1/5  epoch 0/10"
    assert standing_text(Standing(5, 5, 0, 0, 50, 50, 0.5)) == "task 5/5  50.0 % so far"


def test_the_time_left_goes_by_what_was_done_so_far():
    assert left_text(30, 10, 40) == "0:02:00"
    assert left_text(30, 0, 40) == "–"


def test_a_log_has_a_plain_line_for_each_run_from_time_to_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    written = io.StringIO()
    with StudyProgress(Console(file=written, width=200), 2) as progress:
        for seconds, done in ((0, 2), (10, 4), (40, 6), (50, 8)):
            now[0] = 100.0 + seconds
            progress.show({"seed=0": Standing(2, 0, done, 10, done, 20, None)})
        progress.end("seed=0")
    assert written.getvalue().splitlines() == ["seed=0  task 1/2  epoch 6/10  0:02:20 left"]


def test_a_terminal_has_a_line_for_each_run_and_one_for_all(monkeypatch):
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with StudyProgress(console, 3) as progress:
        progress.show({"seed=0": Standing(2, 0, 1, 10, 1, 20, None), "seed=1": Standing(2, 1, 1, 10, 11, 20, 0.9)})
        progress.end("seed=0")
        progress.show({"seed=1": Standing(2, 1, 2, 10, 12, 20, 0.9)})
        progress.bars.refresh()
    assert "seed=0  task 1/2  epoch 1/10" in written.getvalue()
    assert "seed=1  task 2/2  epoch 2/10  90.0 % so far" in written.getvalue()
    assert "1/3 runs" in written.getvalue()
