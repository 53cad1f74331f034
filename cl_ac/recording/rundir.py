"""What a run leaves on disk.

config.yaml        all settings; `cl-ac run --config config.yaml` repeats the run
provenance.json    versions, commit, hardware and start time
metrics.jsonl      one line for each finished task
outputs/           every exit's logits on the test data, one file for each finished task
watch/             accuracy on all tasks seen while a task is learned, one file for each task, if `watch.every` is set
drift/             how far features and classifiers moved, one file for each finished task, if `watch.drift` is set
checkpoint.pt      the state after the last finished epoch
events.out.*       TensorBoard
"""

import itertools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import cl_ac
from cl_ac.errors import ConfigurationError, ResumeError
from cl_ac.evaluation import Outputs, ac_accuracy, cube, exit_accuracy
from cl_ac.recording.checkpoint import Checkpoint, write_atomically
from cl_ac.recording.class_names import by_bare_name
from cl_ac.watching.drift import Drift, Grams
from cl_ac.watching.stability import Watched

# A run may go on with other values of these: they decide where and how fast it runs, not what it computes.
FREE_SETTINGS = ("resume", "out", "name", "device", "loggers", "training.workers")


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


class RunDirectory:
    """The folder of one run.

    Args:
        path: of the folder.
        trusted: whether its settings may name classes and functions from outside the package: they will be called.
    """

    def __init__(self, path: Path, trusted: bool = False):
        self.path, self.trusted = Path(path), trusted
        self.checkpoint_path = self.path / "checkpoint.pt"
        self.metrics_path = self.path / "metrics.jsonl"

    @property
    def name(self) -> str:
        return self.path.name

    def open(self, config: Mapping[str, Any], resume: bool) -> Checkpoint:
        """Makes the folder, or goes on in it.

        Args:
            config: all settings, as plain values.
            resume: whether to go on where a run with the same settings stopped; starts one if there is none.
        Raises:
            ConfigurationError: if it holds a run already and `resume` is off.
            ResumeError: if the run in it had other settings.
        """
        config_path = self.path / "config.yaml"
        if config_path.exists():
            if not resume:
                raise ConfigurationError(
                    f"'{self.path}' already holds a run; give --resume to go on with it, or another --name or --out"
                )
            self._check_same(self.config, by_bare_name(config))
            return Checkpoint.load(self.checkpoint_path) if self.checkpoint_path.exists() else Checkpoint()
        try:
            (self.path / "outputs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot write to '{self.path}' (--out): {error.strerror}") from error
        write_atomically(self.path / "provenance.json", lambda p: p.write_text(json.dumps(provenance(), indent=2)))
        dumped = yaml.safe_dump(by_bare_name(config), sort_keys=False)
        write_atomically(config_path, lambda p: p.write_text(dumped))
        return Checkpoint()

    def _check_same(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        flat_before, flat_now = flatten(before), flatten(now)
        changed = [
            f"{key} was {flat_before.get(key)} and is {flat_now.get(key)}"
            for key in sorted({*flat_before, *flat_now})
            if flat_before.get(key) != flat_now.get(key) and key not in FREE_SETTINGS
        ]
        if changed:
            raise ResumeError(f"'{self.path}' holds a run with other settings: {'; '.join(changed)}")

    def finish(self, record: Record, outputs: Outputs) -> None:
        """Keeps the results of a finished task, and forgets those of later tasks of an earlier attempt."""
        path = self.path / "outputs" / f"task_{record.task}.safetensors"
        write_atomically(path, outputs.save)
        records = [*(earlier for earlier in self.records if earlier.task < record.task), record]
        lines = "".join(json.dumps(vars(each)) + "\n" for each in records)
        write_atomically(self.metrics_path, lambda p: p.write_text(lines))

    @property
    def records(self) -> list[Record]:
        """The finished tasks."""
        if not self.metrics_path.exists():
            return []
        return [Record(**json.loads(line)) for line in self.metrics_path.read_text().splitlines()]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's settings.

        Raises:
            ConfigurationError: if there is no run here.
        """
        path = self.path / "config.yaml"
        if not path.exists():
            raise ConfigurationError(f"'{self.path}' holds no run (no config.yaml in it)")
        return by_bare_name(yaml.safe_load(path.read_text()))

    def accuracies(self, task_incremental: bool = False) -> Tensor:
        """The accuracy cube [T, T, E]."""
        field = "exits_task_incremental" if task_incremental else "exits"
        return cube([torch.tensor(getattr(r, field), dtype=torch.float64) for r in self.records])

    def ac_accuracies(self, task_incremental: bool = False) -> Tensor:
        """The accuracies [T, T] of the most confident exit."""
        field = "most_confident_task_incremental" if task_incremental else "most_confident"
        return cube([torch.tensor(getattr(r, field), dtype=torch.float64) for r in self.records])

    def accuracy_rows(self, task_incremental: bool = False) -> list[dict[str, float]]:
        """The accuracy cube as one row for each of its values, as data frames take them.

        Returns:
            Rows of `task_learned`, `task` (at most the one learned), `exit` (the final one last) and `accuracy`.
        """
        return [
            {"task_learned": learned, "task": task, "exit": index, "accuracy": accuracy}
            for learned, tasks in enumerate(self.accuracies(task_incremental).tolist())
            for task, exits in enumerate(tasks[: learned + 1])
            for index, accuracy in enumerate(exits)
        ]

    def outputs(self, task: int) -> Outputs:
        """The stored outputs after `task`."""
        return Outputs.load(self.path / "outputs" / f"task_{task}.safetensors")

    def keep_watched(self, watched: Watched) -> None:
        """Keeps the watched points of a task so far."""
        self._write(self._watched_path(watched.task), watched.save)

    def watched(self, task: int) -> Watched | None:
        """What was watched while `task` was learned; None where nothing was."""
        path = self._watched_path(task)
        return Watched.load(path) if path.exists() else None

    def watched_all(self) -> list[Watched]:
        """What was watched during each task of the run, in order; empty where nothing was."""
        known = itertools.takewhile(lambda path: path.exists(), map(self._watched_path, itertools.count()))
        return [Watched.load(path) for path in known]

    def keep_drift(self, task: int, drift: Drift, grams: Grams) -> None:
        """Keeps what moved until the end of `task`, and of the Gram matrices those that a resumed run may need."""
        self._write(self.path / "drift" / f"task_{task}.safetensors", drift.save)
        self._write(self._grams_path(task), grams.save)
        self._grams_path(task - 2).unlink(missing_ok=True)

    def grams(self, task: int) -> Grams | None:
        """The Gram matrices after `task`; None before the first.

        Raises:
            ResumeError: if they are missing.
        """
        if task < 0:
            return None
        if not self._grams_path(task).exists():
            raise ResumeError(f"'{self._grams_path(task)}' is missing; start the run again")
        return Grams.load(self._grams_path(task))

    def drift(self) -> Drift | None:
        """What moved after each finished task, CKA [T, T, E] and norms [T, E, T]; None where it was not measured."""
        paths = [self.path / "drift" / f"task_{record.task}.safetensors" for record in self.records]
        return Drift.of_run([Drift.load(path) for path in paths]) if paths and paths[0].exists() else None

    def _watched_path(self, task: int) -> Path:
        return self.path / "watch" / f"task_{task}.safetensors"

    def _grams_path(self, task: int) -> Path:
        return self.path / "drift" / f"grams_{task}.safetensors"

    def _write(self, path: Path, write: Callable[[Path], object]) -> None:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, write)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def provenance() -> dict[str, Any]:
    """What a number needs beside its settings to be understood later."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "cl_ac": cl_ac.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    """Vendor's name of the processor where Linux tells it, else its architecture."""
    details = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", details.read_text()) if details.exists() else None
    return named[1] if named else platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, `-modified` if it has changes; None when installed."""
    root = Path(cl_ac.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=-modified"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def runs_in(path: Path) -> list[RunDirectory]:
    """The run in a folder, or those in its subfolders by name; none in the folder of an earlier report.

    Raises:
        ConfigurationError: if there is neither.
    """
    if (path / "config.yaml").exists():
        return [RunDirectory(path)]
    found = sorted(config.parent for config in path.glob("*/config.yaml"))
    if not found and not (path / "report.html").exists():
        raise ConfigurationError(f"'{path}' holds no run (no config.yaml in it)")
    return [RunDirectory(each) for each in found]
