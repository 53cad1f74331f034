"""`metrics.jsonl`: what a run keeps of each finished task in a line of text."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task, open_classes
from cl_ac.evaluation import Outputs, ac_accuracy, exit_accuracy
from cl_ac.recording.files import append, reading, write_atomically
from cl_ac.streams.metrics import accuracy_on, corrupted_share, missing_classes, thirds
from cl_ac.watching.ahead import Ahead


@dataclass(frozen=True)
class Record:
    """One finished task, a line of `metrics.jsonl`.

    Args:
        task: its index.
        sizes: classes that were new in each task seen [T].
        exits: accuracy over all classes [T][E]; NaN, null in the file, for a task that is not tested on its own.
        most_confident: the same of the most confident exit [T].
        exits_task_incremental: accuracy [T][E] with the task known.
        most_confident_task_incremental: accuracy [T] with the task known.
        relative_cost: cost at each exit relative to the network without ACs [E].
        seconds: time that training and evaluating the task took.
        next_task: accuracy [E] on the task that comes next, before it is learned, where it is a domain.
        next_task_untrained: the same of the network as the run began.
        missing_classes: accuracy [E] on the classes seen so far that the task did not bring again, where tasks may.
        thirds: accuracy [3][E] on the classes with the most training samples, with fewer and with the fewest, where
            they differ much.
        corrupted_exemplars: share of the exemplars that are labelled wrongly, where true labels are known.
        tested: how many classes each task is tested on [T], where a domain brings new classes beside known ones.
        training_macs: multiply-accumulates that training took for each new image, by what they were spent on, where
            the approach counts them.
    """

    task: int
    sizes: list[int]
    exits: list[list[float]]
    most_confident: list[float]
    exits_task_incremental: list[list[float]]
    most_confident_task_incremental: list[float]
    relative_cost: list[float]
    seconds: float
    next_task: list[float] | None = None
    next_task_untrained: list[float] | None = None
    missing_classes: list[float] | None = None
    thirds: list[list[float]] | None = None
    corrupted_exemplars: float | None = None
    tested: list[int] | None = None
    training_macs: dict[str, float] | None = None

    @property
    def tested_classes(self) -> list[int]:
        """How many classes each task is tested on, if at all [T]."""
        return _tested_without_domains(self.sizes) if self.tested is None else self.tested

    @staticmethod
    def of(task: int, outputs: Outputs, seconds: float, **of_stream: Any) -> "Record":
        """The accuracies that follow from `outputs`.

        Args:
            of_stream: what some streams are asked for beside them.
        """
        known, tested = outputs.task_incremental, outputs.tested_classes
        return Record(
            task,
            list(outputs.sizes),
            exit_accuracy(outputs).tolist(),
            ac_accuracy(outputs).tolist(),
            exit_accuracy(known).tolist(),
            ac_accuracy(known).tolist(),
            outputs.cost.relative,
            seconds,
            tested=None if tested == _tested_without_domains(outputs.sizes) else tested,
            **of_stream,
        )

    def line(self) -> str:
        """What `parse` reads."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(unknown_as(known, math.nan, None)) + "\n"

    @staticmethod
    def parse(line: str) -> "Record":
        """A record out of its line.

        Raises:
            ValueError: if the line is none that a run wrote.
        """
        content = json.loads(line)
        names = {each.name: each.default is MISSING for each in fields(Record)}
        needed = {name for name, is_needed in names.items() if is_needed}
        if not isinstance(content, dict) or not needed <= set(content) <= set(names):
            raise ValueError(line)
        record = Record(**unknown_as(content, None, math.nan))
        tasks, exits = len(record.sizes), len(record.relative_cost)
        per_task = record.exits, record.most_confident, record.exits_task_incremental
        whole = tasks == record.task + 1 and all(
            len(values) == tasks for values in (*per_task, record.most_confident_task_incremental)
        )
        if not whole or any(len(row) != exits for row in (*record.exits, *record.exits_task_incremental)):
            raise ValueError(line)
        return record


def _tested_without_domains(sizes: Sequence[int]) -> list[int]:
    """How many classes tasks are tested on that bring either new classes or known ones [T]."""
    return open_classes(sizes).sum(1).tolist()


def of_stream(
    task: Task, outputs: Outputs, is_disjoint: bool, ahead: Ahead | None, exemplars: Samples
) -> dict[str, Any]:
    """What `Record.of` takes beside the outputs after `task`: what its stream gives a meaning."""
    found: dict[str, Any] = {"corrupted_exemplars": corrupted_share(exemplars)}
    if ahead is not None:
        found |= {"next_task": ahead.learned, "next_task_untrained": ahead.untrained}
    counts = torch.zeros(task.classes_seen, dtype=torch.int64)
    for each in task.history():
        counts += each.train.targets.cpu().bincount(minlength=task.classes_seen)
    if (groups := thirds(counts)) is not None:
        found["thirds"] = [accuracy_on(outputs.correct, outputs.targets, group).tolist() for group in groups]
    missing = missing_classes(task.train.targets.cpu(), task.classes_seen)
    if not is_disjoint and missing.any():
        found["missing_classes"] = accuracy_on(outputs.correct, outputs.targets, missing).tolist()
    return found


def unknown_as(value: Any, unknown: float | None, instead: float | None) -> Any:
    """`value` with another sign for what is not known: a file has null in place of NaN."""
    if isinstance(value, dict):
        return {name: unknown_as(part, unknown, instead) for name, part in value.items()}
    if isinstance(value, list):
        return [unknown_as(part, unknown, instead) for part in value]
    is_unknown = value is None if unknown is None else isinstance(value, float) and math.isnan(value)
    return instead if is_unknown else value


class RecordFile:
    """The lines of a run, read only when the file has changed, and written once each: a thousand tasks take 100 MB.

    Args:
        path: of the file, which need not be there.
    """

    def __init__(self, path: Path):
        self.path = path
        self._records: list[Record] = []
        self._version: tuple[int, ...] = ()
        self._rows: dict[str, dict[int, Tensor]] = defaultdict(dict)

    def read(self) -> list[Record]:
        """The finished tasks.

        Raises:
            DamagedRun: if a line is none that a run wrote; blank ones do no harm.
        """
        if not self.path.exists():
            return []
        with reading(self.path, "`cl-ac run --resume` reads it again from outputs/"):
            if (version := self._present_version()) != self._version:
                lines = [line for line in self.path.read_text().splitlines() if line.strip()]
                self._records, self._version = [Record.parse(line) for line in lines], version
                self._rows.clear()
        return list(self._records)

    def rows(self, field: str) -> list[Tensor]:
        """A field of all finished tasks as tensors, which are made once each."""
        records, made = self.read(), self._rows[field]
        for record in records:
            if record.task not in made:
                made[record.task] = torch.tensor(getattr(record, field), dtype=torch.float64)
        return [made[record.task] for record in records]

    def salvage(self) -> tuple[dict[int, Record], bool]:
        """The records that can be read, by task, and whether the file holds them and nothing else."""
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        lines = text.splitlines()
        found = [record for line in lines if (record := read_record(line)) is not None]
        return {record.task: record for record in found}, len(found) == len(lines) and text[-1:] in ("", "\n")

    def finish(self, record: Record) -> None:
        """Adds a task, and forgets it and those after it of an earlier attempt.

        Raises:
            StorageError: if the disk refuses it; earlier tasks are whole.
        """
        before = self.read()
        earlier = [each for each in before if each.task < record.task]
        if len(earlier) < len(before):
            self.write([*earlier, record])
        else:
            append(self.path, record.line())
            self._records, self._version = [*earlier, record], self._present_version()

    def write(self, records: Sequence[Record]) -> None:
        """Writes the whole file again."""
        text = "".join(each.line() for each in records)
        write_atomically(self.path, lambda path: path.write_text(text))

    def _present_version(self) -> tuple[int, ...]:
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size, state.st_ino


def read_record(line: str) -> Record | None:
    """A record out of its line; None where it is damaged."""
    try:
        return Record.parse(line)
    except (ValueError, TypeError):
        return None
