import threading
import time

from cl_ac.recording.lock import exclusive
from cl_ac.studies.shared import changed_files, mark, wait_for, write_files


def test_only_what_changed_is_carried_and_the_checkpoint_comes_last(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "outputs").mkdir(parents=True)
    for name in ("checkpoint.pt", "metrics.jsonl", "outputs/task_0", "lock", ".x.unfinished"):
        (here / name).write_text(name)
    known: dict = {}
    files = changed_files(here, known)
    assert {*files} == {"metrics.jsonl", "outputs/task_0", "checkpoint.pt"}
    assert list(files)[-1] == "checkpoint.pt"
    write_files(there, files)
    assert (there / "outputs" / "task_0").read_text() == "outputs/task_0"
    assert changed_files(here, known) == {}
    (here / "metrics.jsonl").write_text("one more line")
    assert changed_files(here, known) == {"metrics.jsonl": b"one more line"}


def test_a_mark_is_a_new_file(tmp_path):
    first, second = mark(tmp_path), mark(tmp_path)
    assert first != second
    assert first.exists()


def test_a_run_waits_for_the_process_that_is_about_to_leave_it(tmp_path):
    wait_for(tmp_path, 60)  # nobody was ever there
    held = threading.Event()

    def hold() -> None:
        with exclusive(tmp_path / "lock"):
            held.set()
            time.sleep(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    began = time.monotonic()
    wait_for(tmp_path, 60)
    assert time.monotonic() - began > 0.2
    holder.join()


def test_it_waits_no_longer_than_it_is_told_to(tmp_path):
    with exclusive(tmp_path / "lock"):
        began = time.monotonic()
        wait_for(tmp_path, 0.3)
        assert 0.3 < time.monotonic() - began < 30
