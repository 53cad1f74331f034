"""What a run will take on disk."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from cl_ac.data.tasks import Task

GIBIBYTE = 2**30


def is_kept(task: int, keep_outputs: int) -> bool:
    """Whether the outputs after `task` stay when later tasks are finished: of each `keep_outputs`-th, of none if 0."""
    return keep_outputs > 0 and (task + 1) % keep_outputs == 0


def outputs_bytes(tasks: Sequence[Task], exits: int, keep_outputs: int = 1) -> int:
    """The size of all files in `outputs/`: every exit's logits, float32, of all test images seen after each task kept.

    It grows with the cube of the number of tasks: more exits × more images × more classes each time.
    """
    images, total = 0, 0
    for task in tasks:
        images += len(task.test)
        if is_kept(task.index, keep_outputs) or task.index == len(tasks) - 1:
            total += 4 * exits * images * task.classes_seen
    return total


def tell_need(needed: int, path: Path, tell: Callable[[str], None], large: int = GIBIBYTE) -> None:
    """Says what a run in `path` will take on disk if that is `large` bytes or more, or over half of what is free."""
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed >= min(large, free / 2):
        size, room = (f"{value / GIBIBYTE:.1f} GiB" for value in (needed, free))
        tell(
            f"outputs/ of '{path}' will take up to {size}; {room} are free there; --keep_outputs 10 keeps those after "
            "every tenth task and the last, 0 after the last only"
        )
