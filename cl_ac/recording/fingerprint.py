"""What a run's data are recognised by, so that no run goes on with others."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cl_ac.benchmark import Benchmark
from cl_ac.data.samples import Samples
from cl_ac.data.tasks import Task, task_slices
from cl_ac.recording.files import reading, write_atomically

# Images of each part of a task that are looked at: enough to notice other data, few enough to cost nothing.
LOOKED_AT = 16


@dataclass(frozen=True)
class TaskData:
    """What the data of one task are recognised by.

    Args:
        classes: names of its classes in the order of arrival; their labels where the data set has no names.
        shape: channels, height and width of the images.
        train: training images.
        validation: images held out.
        test: test images.
        pixels: digest of all targets and of a few images.
    """

    classes: list[str]
    shape: list[int]
    train: int
    validation: int
    test: int
    pixels: str


def fingerprint(benchmark: Benchmark) -> list[TaskData]:
    """What the data of each task are recognised by."""
    names, tasks = benchmark.class_names, benchmark.tasks
    ordered = [str(label) if names is None else str(names[label]) for label in benchmark.arrival_order]
    return [_of_task(task, ordered[classes]) for task, classes in zip(tasks, task_slices(tasks[-1].sizes), strict=True)]


def _of_task(task: Task, classes: list[str]) -> TaskData:
    parts = task.train, task.validation, task.test
    shape = [int(size) for size in task.train.images.shape[1:]]
    digest = hashlib.sha256()
    for part in parts:
        _add(digest, part)
    return TaskData(classes, shape, len(task.train), len(task.validation), len(task.test), digest.hexdigest()[:16])


def _add(digest: "hashlib._Hash", samples: Samples) -> None:
    digest.update(samples.targets.cpu().contiguous().numpy().tobytes())
    if len(samples):
        chosen = torch.linspace(0, len(samples) - 1, min(LOOKED_AT, len(samples))).long()
        digest.update(samples.images[chosen].cpu().contiguous().numpy().tobytes())


def save(tasks: Sequence[TaskData], path: Path) -> None:
    """Writes a JSON file."""
    text = "".join(["[\n", ",\n".join(json.dumps(asdict(each)) for each in tasks), "\n]\n"])
    write_atomically(path, lambda file: file.write_text(text))


def load(path: Path) -> list[TaskData]:
    """Reads what `save` wrote.

    Raises:
        DamagedRun: if the file is no such list.
    """
    with reading(path, "remove it if the data are those that the run began with"):
        return [TaskData(**each) for each in json.loads(path.read_text())]


def differences(before: Sequence[TaskData], now: Sequence[TaskData]) -> list[str]:
    """What differs between the data of the same tasks, in words; pixels aside, which decoders may round."""
    found = []
    for number, (old, new) in enumerate(zip(before, now, strict=False), start=1):
        if old.classes != new.classes:
            pairs = zip([*old.classes, "none"], [*new.classes, "none"], strict=False)
            was, is_now = next(pair for pair in pairs if pair[0] != pair[1])
            found.append(f"task {number} had the class '{was}' and has '{is_now}' in its place")
        for name, text in (("train", "training"), ("validation", "held-out"), ("test", "test")):
            if getattr(old, name) != getattr(new, name):
                found.append(f"task {number} had {getattr(old, name)} {text} images and has {getattr(new, name)}")
        if old.shape != new.shape:
            found.append(f"images of task {number} had the shape {old.shape} and have {new.shape}")
    if len(before) != len(now):
        found.append(f"there were {len(before)} tasks and are {len(now)}")
    return found


def other_pixels(before: Sequence[TaskData], now: Sequence[TaskData]) -> list[int]:
    """The tasks whose images or targets are not the same, by index."""
    pairs = zip(before, now, strict=False)
    return [index for index, (old, new) in enumerate(pairs) if old.pixels != new.pixels]
