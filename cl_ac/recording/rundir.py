"""What a run leaves on disk.

config.yaml        all settings; `cl-ac run --config config.yaml` repeats the run
provenance.json    versions, commit, hardware and start time
data.json          what the data of each task are recognised by when the run goes on
metrics.jsonl      one line for each finished task
outputs/           every exit's logits on the test data, one file for each finished task (that `keep_outputs` names)
watch/             accuracy on all tasks seen while a task is learned, one file for each task, if `watch.every` is set
sparsity/          how dense and how orthogonal a sparse network is, at the start and after each task, and its cost
drift/             how far features and classifiers moved, one file for each finished task, if `watch.drift` is set
checkpoint.pt      the state after the last finished epoch
frozen.pt          the weights of frozen stages, which the checkpoint leaves out, if there are any
checkpoints/       the state after each task, if `keep_checkpoints` is set
lock               held by the process at work here
events.out.*       TensorBoard
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from cl_ac.errors import ConfigurationError, DamagedRun, ResumeError, UserError
from cl_ac.evaluation import Outputs, cube
from cl_ac.recording import fingerprint
from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.files import UNFINISHED, reading, remove, writable_folder, write_atomically
from cl_ac.recording.fingerprint import TaskData, differences, other_pixels
from cl_ac.recording.frozen import FrozenWeights
from cl_ac.recording.hyperparameters import hyperparameters
from cl_ac.recording.lock import exclusive
from cl_ac.recording.observations import Observations
from cl_ac.recording.provenance import provenance
from cl_ac.recording.records import Record, RecordFile
from cl_ac.recording.same_run import changed_settings, may_change, other_settings, settings_digest
from cl_ac.recording.space import is_kept
from cl_ac.recording.stored_settings import by_bare_name
from cl_ac.watching.drift import Drift


class RunDirectory(Observations):
    """The folder of one run.

    Args:
        path: of the folder.
        trusted: whether its settings may name classes and functions from outside the package: they will be called.
        usual: the default of each option, by dotted name, for those that are newer than the run.
        keeps_state: whether checkpoints are kept in it, as in all but those of processes that follow another.
    """

    def __init__(
        self, path: Path, trusted: bool = False, usual: Mapping[str, Any] | None = None, keeps_state: bool = True
    ):
        super().__init__(path)
        self.trusted, self.usual, self.keeps_state = trusted, usual or {}, keeps_state
        self.config_path, self.data_path = self.path / "config.yaml", self.path / "data.json"
        self.checkpoint_path, self.metrics_path = self.path / "checkpoint.pt", self.path / "metrics.jsonl"
        self.record_file = RecordFile(self.metrics_path)

    @property
    def name(self) -> str:
        return self.path.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and keeps other processes out of it; what ends before any result leaves nothing behind.

        The system gives the lock up when the process ends, however it ends.

        Raises:
            StorageError: if the folder cannot be made or written to.
            ConfigurationError: if another process is at work in it.
        """
        made = not self.path.exists()
        writable_folder(self.path)
        before = {*self.path.iterdir()}
        with exclusive(self.path / "lock"):
            for left in self.path.rglob(f".*{UNFINISHED}"):
                left.unlink(missing_ok=True)
            try:
                yield
            except BaseException:
                if not self.has_results:
                    remove({*self.path.iterdir()} - before)
                    if made:
                        self.path.rmdir()
                raise

    @property
    def has_results(self) -> bool:
        """Whether there is anything that a new run would lose."""
        return self.checkpoint_path.exists() or self.metrics_path.exists()

    def open(
        self,
        config: Mapping[str, Any],
        resume: bool,
        data: Sequence[TaskData] = (),
        tell: Callable[[str], None] = lambda text: None,
    ) -> Checkpoint:
        """Begins a run in the folder, or goes on with the one in it.

        A finished run may go on with more tasks than it had, if those that it has learned stay as they were.

        Args:
            config: all settings, as plain values.
            resume: whether to go on where a run with the same settings stopped; starts one if there is none.
            data: what the data are recognised by; nothing to go by is no reason to refuse.
            tell: called with a sentence for each thing that was lost or mended.
        Raises:
            ConfigurationError: if it holds a run already and `resume` is off.
            ResumeError: if the run in it had other settings or other data.
            DamagedRun: if what is needed to go on cannot be read.
        """
        config = by_bare_name(config)
        if not self.has_results:
            self._begin(config, data)
            return Checkpoint(run=settings_digest(config))
        if not resume:
            raise ConfigurationError(
                f"'{self.path}' already holds a run; give --resume to go on with it, or another --name or --out"
            )
        checkpoint = Checkpoint()
        if self.checkpoint_path.exists():
            checkpoint = Checkpoint.load(self.checkpoint_path)
        else:
            tell(f"'{self.checkpoint_path}' is missing: the run starts again with its first task")
        same_run = checkpoint.run == settings_digest(config)
        try:
            before = self.config
        except UserError:
            if not same_run:
                raise
            before = dict(config)
            tell(f"'{self.config_path}' could not be read and is written again")
        learned = checkpoint.task + (checkpoint.fit is not None)
        self._check_same(before, config, data, learned, tell)
        if checkpoint.run and not same_run and checkpoint.run != settings_digest(before):
            raise ResumeError(f"'{self.checkpoint_path}' is the checkpoint of a run with other settings than this one")
        self._mend(checkpoint.task, tell)
        if not same_run and self.checkpoint_path.exists():
            # Before the settings, so that a kill in between leaves a pair that may go on.
            checkpoint = replace(checkpoint, run=settings_digest(config))
            checkpoint.save(self.checkpoint_path)
        self._keep_settings(config, data)
        return replace(checkpoint, run=settings_digest(config))

    def _begin(self, config: Mapping[str, Any], data: Sequence[TaskData]) -> None:
        facts = json.dumps(provenance(), indent=2)
        write_atomically(self.path / "provenance.json", lambda p: p.write_text(facts))
        self._keep_settings(config, data)

    def _keep_settings(self, config: Mapping[str, Any], data: Sequence[TaskData]) -> None:
        if data:
            fingerprint.save(data, self.data_path)
        dumped = yaml.safe_dump(dict(config), sort_keys=False)
        write_atomically(self.config_path, lambda p: p.write_text(dumped))
        self.__dict__.pop("config", None)

    def _check_same(
        self,
        before: Mapping[str, Any],
        now: Mapping[str, Any],
        data: Sequence[TaskData],
        learned: int,
        tell: Callable[[str], None],
    ) -> None:
        changed = changed_settings(before, now, self.usual)
        known = fingerprint.load(self.data_path) if self.data_path.exists() else []
        if changed and changed.keys() <= may_change(before, now, learned) and known[:learned] and len(data) >= learned:
            # Other tasks may follow, but those that were learned must be what they were.
            known, data = known[:learned], data[:learned]
            changed = {} if not differences(known, data) else changed
        if changed:
            raise ResumeError(other_settings(self.path, changed))
        self.check_data(data, tell, known)

    def check_data(
        self, data: Sequence[TaskData], tell: Callable[[str], None], known: Sequence[TaskData] | None = None
    ) -> None:
        """Compares the data of now with those that the run began with.

        Args:
            known: what is compared, instead of all that `data.json` holds.
        Raises:
            ResumeError: if classes or numbers of images differ; other pixels are told, since decoders may round.
        """
        if known is None:
            known = fingerprint.load(self.data_path) if self.data_path.exists() else []
        if not known or not data:
            return
        if differ := differences(known, data):
            few = "; ".join(differ[:5]) + (f"; and {len(differ) - 5} more" if len(differ) > 5 else "")
            raise ResumeError(f"the data have changed since '{self.path}' began: {few}")
        if pixels := other_pixels(known, data):
            tell(f"the images of task {pixels[0] + 1} differ from those that '{self.path}' began with")

    def _mend(self, finished: int, tell: Callable[[str], None]) -> None:
        """Reads what metrics.jsonl lacks of the `finished` tasks from their outputs, if they are there."""
        kept, whole = self.record_file.salvage()
        for task in range(finished):
            if task in kept:
                continue
            whole = False
            try:
                kept[task] = Record.of(task, self.outputs(task), 0.0)
                tell(f"'{self.metrics_path}' lacked task {task + 1}, which is read again from outputs/")
            except UserError as error:
                tell(f"the accuracies after task {task + 1} are lost: {error}")
        if not whole:
            self.record_file.write([kept[task] for task in sorted(kept)])

    def finish(self, record: Record, outputs: Outputs, keep_outputs: int = 1) -> None:
        """Keeps the results of a finished task, and forgets those of later tasks of an earlier attempt.

        Args:
            keep_outputs: of the outputs before, those after each so many-th task stay.
        Raises:
            StorageError: if the disk refuses them; earlier tasks are whole.
        """
        write_atomically(self.outputs_path(record.task), outputs.save)
        self.record_file.finish(record)
        if record.task and not is_kept(record.task - 1, keep_outputs):
            self.outputs_path(record.task - 1).unlink(missing_ok=True)

    @property
    def records(self) -> list[Record]:
        """The finished tasks.

        Raises:
            DamagedRun: if a line is none that a run wrote; blank ones do no harm.
        """
        return self.record_file.read()

    @property
    def tasks_in_all(self) -> int | None:
        """How many tasks the run has when it is finished; None where neither its data nor its settings tell."""
        if self.data_path.exists():
            with suppress(DamagedRun):
                return len(fingerprint.load(self.data_path))
        told = hyperparameters(self.config).get("benchmark.tasks")
        return told if isinstance(told, int) else None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's settings.

        Raises:
            ConfigurationError: if there is no run here.
            DamagedRun: if they cannot be read.
        """
        if not self.config_path.exists() and not self.has_results:
            raise ConfigurationError(f"'{self.path}' holds no run (no config.yaml in it)")
        way_out = "the accuracies in metrics.jsonl are plain text; `cl-ac run --resume` with the same settings mends it"
        with reading(self.config_path, way_out):
            settings = yaml.safe_load(self.config_path.read_text())
            if not isinstance(settings, dict):
                raise ValueError
            return by_bare_name(settings)

    @property
    def provenance(self) -> dict[str, Any]:
        """What `provenance` found when the run began; empty if it is not known.

        Raises:
            DamagedRun: if the file cannot be read.
        """
        path = self.path / "provenance.json"
        if not path.exists():
            return {}
        with reading(path, "no number depends on it; remove it"):
            return dict(json.loads(path.read_text()))

    def folder(self, name: str) -> Path:
        """A folder inside this one in which files can be made.

        Raises:
            StorageError: if that cannot be.
        """
        return writable_folder(self.path / name)

    def accuracies(self, task_incremental: bool = False) -> Tensor:
        """The accuracy cube [T, T, E]."""
        return cube(self.record_file.rows("exits_task_incremental" if task_incremental else "exits"))

    def ac_accuracies(self, task_incremental: bool = False) -> Tensor:
        """The accuracies [T, T] of the most confident exit."""
        return cube(self.record_file.rows("most_confident_task_incremental" if task_incremental else "most_confident"))

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
        """The stored outputs after `task`.

        Raises:
            DamagedRun: if they are missing or cannot be read.
        """
        path = self.outputs_path(task)
        with reading(path, "the accuracies in metrics.jsonl remain; `cl-ac run --resume` makes those of the last task"):
            outputs = Outputs.load(path)
            exits, samples, classes = outputs.logits.shape
            shapes = (samples,), (samples,), task + 1, classes, exits
            tensors = tuple(outputs.targets.shape), tuple(outputs.tasks.shape)
            if shapes != (*tensors, len(outputs.sizes), sum(outputs.sizes), len(outputs.cost.exits)):
                raise ValueError
            return outputs

    def tasks_with_outputs(self) -> list[int]:
        """The finished tasks whose outputs are there."""
        return [record.task for record in self.records if self.outputs_path(record.task).exists()]

    def has_outputs(self, task: int) -> bool:
        """Whether the outputs after `task` are there and can be read."""
        with suppress(DamagedRun):
            return self.outputs(task) is not None
        return False

    def keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint that follows a task beside later ones, with all weights in it."""
        whole = replace(checkpoint, frozen=FrozenWeights())
        whole.save(self.path / "checkpoints" / f"task_{checkpoint.task - 1}.pt")

    def drift(self) -> Drift | None:
        """What moved after each finished task, CKA [T, T, E] and norms [T, E, T]; None where it was not measured."""
        drifts = [self.drift_after(record.task) for record in self.records]
        found = [drift for drift in drifts if drift is not None]
        return Drift.of_run(found) if found else None

    def outputs_path(self, task: int) -> Path:
        """Where the outputs after `task` are, if they are there."""
        return self.path / "outputs" / f"task_{task}.safetensors"
