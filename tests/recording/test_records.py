"""What a run keeps of each finished task."""

import json
import math
import os

import pytest

from cl_ac.errors import StorageError
from cl_ac.recording import files
from cl_ac.recording.records import Record, RecordFile


def record(task: int, accuracy: float = 0.5) -> Record:
    row = [accuracy] * (task + 1)
    return Record(task, [1] * (task + 1), [[value] for value in row], row, [[value] for value in row], row, [1.0], 0.1)


def test_a_finished_task_is_added_and_earlier_lines_are_not_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = RecordFile(path)
    file.finish(record(0))
    first = path.stat().st_ino
    file.finish(record(1))
    assert path.stat().st_ino == first
    assert file.read() == RecordFile(path).read() == [record(0), record(1)]


def test_rows_are_those_of_the_file_as_it_is_now(tmp_path):
    file = RecordFile(tmp_path / "metrics.jsonl")
    for task, accuracy in ((0, 0.25), (1, 0.5)):
        file.finish(record(task, accuracy))
    assert [row.tolist() for row in file.rows("most_confident")] == [[0.25], [0.5, 0.5]]
    file.finish(record(0, 0.75))
    assert [row.tolist() for row in file.rows("most_confident")] == [[0.75]]


def test_a_task_that_is_finished_again_replaces_what_came_after(tmp_path):
    file = RecordFile(tmp_path / "metrics.jsonl")
    for task in range(3):
        file.finish(record(task))
    file.finish(record(1, 0.75))
    assert file.read() == [record(0), record(1, 0.75)]


def test_what_the_disk_refuses_leaves_the_lines_before(tmp_path, monkeypatch):
    file = RecordFile(tmp_path / "metrics.jsonl")
    file.finish(record(0))

    def refuse(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        file.finish(record(1))
    assert RecordFile(file.path).read() == [record(0)]


def test_a_last_line_that_was_cut_is_no_whole_file(tmp_path):
    file = RecordFile(tmp_path / "metrics.jsonl")
    file.finish(record(0))
    assert file.salvage() == ({0: record(0)}, True)
    file.path.write_text(file.path.read_text().rstrip("\n"))
    assert file.salvage() == ({0: record(0)}, False)


def test_what_is_not_known_is_null_in_the_file():
    known = record(1)
    line = Record(**{**vars(known), "most_confident": [0.5, math.nan], "exits": [[0.5], [math.nan]]}).line()
    assert "NaN" not in line
    assert json.loads(line)["most_confident"] == [0.5, None]
    parsed = Record.parse(line)
    assert math.isnan(parsed.most_confident[1])
    assert math.isnan(parsed.exits[1][0])
    assert parsed.sizes == known.sizes
