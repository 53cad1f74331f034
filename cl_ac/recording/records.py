"""What a run keeps of each finished task in a line of text."""

import json
from dataclasses import dataclass, fields

from cl_ac.evaluation import Outputs, ac_accuracy, exit_accuracy


@dataclass(frozen=True)
class Record:
    """One finished task, a line of `metrics.jsonl`.

    Args:
        task: its index.
        sizes: classes of each task seen [T].
        exits: class-incremental accuracy [T][E].
        most_confident: class-incremental accuracy of the most confident exit [T].
        exits_task_incremental: accuracy [T][E] with the task known.
        most_confident_task_incremental: accuracy [T] with the task known.
        relative_cost: cost at each exit relative to the network without ACs [E].
        seconds: time that training and evaluating the task took.
    """

    task: int
    sizes: list[int]
    exits: list[list[float]]
    most_confident: list[float]
    exits_task_incremental: list[list[float]]
    most_confident_task_incremental: list[float]
    relative_cost: list[float]
    seconds: float

    @staticmethod
    def of(task: int, outputs: Outputs, seconds: float) -> "Record":
        """The accuracies that follow from `outputs`."""
        known = outputs.task_incremental
        return Record(
            task,
            list(outputs.sizes),
            exit_accuracy(outputs).tolist(),
            ac_accuracy(outputs).tolist(),
            exit_accuracy(known).tolist(),
            ac_accuracy(known).tolist(),
            outputs.cost.relative,
            seconds,
        )

    @staticmethod
    def parse(line: str) -> "Record":
        """A record out of its line.

        Raises:
            ValueError: if the line is none that a run wrote.
        """
        content = json.loads(line)
        if not isinstance(content, dict) or set(content) != {each.name for each in fields(Record)}:
            raise ValueError(line)
        record = Record(**content)
        tasks, exits = len(record.sizes), len(record.relative_cost)
        per_task = record.exits, record.most_confident, record.exits_task_incremental
        whole = tasks == record.task + 1 and all(
            len(values) == tasks for values in (*per_task, record.most_confident_task_incremental)
        )
        if not whole or any(len(row) != exits for row in (*record.exits, *record.exits_task_incremental)):
            raise ValueError(line)
        return record


def read_record(line: str) -> Record | None:
    """A record out of its line; None where it is damaged."""
    try:
        return Record.parse(line)
    except (ValueError, TypeError):
        return None
