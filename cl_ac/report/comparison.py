"""Runs side by side: which differ in their seed alone, on which benchmark they ran, and what tells them apart."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_ac.errors import DamagedRun
from cl_ac.evaluation import ExitCosts, average, forgetting
from cl_ac.exits.curves import Curve, cost_accuracy
from cl_ac.recording.files import reading
from cl_ac.recording.hyperparameters import Value, hyperparameters
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import Summary, summarise
from cl_ac.sparse_training.record import SparseRecord
from cl_ac.watching.drift import Drift
from cl_ac.watching.stability import Watched


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone. S seeds, T tasks finished, E exits.

    Args:
        family: what it has in common with its like without or with other ACs, such as `LwF`.
        exits: where its ACs hang; `none` without.
        runs: S run folders.
        settings: of all of them, the seed aside.
        tasks: T.
        total: tasks of the benchmark, as far as is known.
    """

    family: str
    exits: str
    runs: tuple[RunDirectory, ...]
    settings: Mapping[str, Value]
    tasks: int
    total: int

    @property
    def label(self) -> str:
        """A name that no other group of its comparison has."""
        name = self.family if self.exits == "none" else f"{self.family} + {self.exits}"
        return name if self.tasks == self.total else f"{name} ({self.tasks} of {self.total} tasks)"

    @property
    def has_acs(self) -> bool:
        return self.exits != "none"

    @cached_property
    def summaries(self) -> list[Summary]:
        return [summarise(run) for run in self.runs]

    @cached_property
    def answers(self) -> Tensor:
        """Accuracy of the most confident exit [S, T, T]."""
        return torch.stack([run.ac_accuracies() for run in self.runs])

    @cached_property
    def last(self) -> Tensor:
        """Accuracy of each exit on each task after the last [S, T, E]."""
        return torch.stack([run.accuracies()[-1] for run in self.runs])

    @property
    def average_accuracy(self) -> Tensor:
        """Mean over the tasks seen, after each task [S, T]."""
        rows = [average(self.answers[:, task, : task + 1].T) for task in range(self.tasks)]
        return torch.stack(rows, 1)

    @property
    def forgetting(self) -> Tensor:
        """Mean over the earlier tasks, after each task but the first [S, T − 1]."""
        cubes = self.answers.movedim(0, -1)
        rows = [forgetting(cubes[: task + 1, : task + 1]).nanmean(0) for task in range(1, self.tasks)]
        return torch.stack(rows, 1) if rows else torch.empty(len(self.runs), 0)

    @cached_property
    def curves(self) -> list[Curve]:
        """Accuracy against cost after the last task, of the confidence rule on all samples: S curves."""
        return [cost_accuracy(run.outputs(self.tasks - 1)) for run in self.runs]

    @cached_property
    def watched(self) -> list[list[Watched]]:
        """What was watched during training, of each seed that was watched: one for each task."""
        return [found for run in self.runs if (found := run.watched_all())]

    @cached_property
    def drifts(self) -> list[Drift]:
        """How far features and classifiers moved, of each seed for which it was measured."""
        return [drift for run in self.runs if (drift := run.drift()) is not None]

    @cached_property
    def training_macs(self) -> dict[str, float] | None:
        """What training took for each new image of the last task, by what it was spent on; None if not counted."""
        return self.runs[0].records[-1].training_macs

    @property
    def seconds(self) -> list[float]:
        """Time that training and evaluating took, of each seed [S]."""
        return [sum(record.seconds for record in run.records[: self.tasks]) for run in self.runs]

    @cached_property
    def sparsity(self) -> list[tuple[SparseRecord, SparseRecord]]:
        """What each seed's sparse network was like at the start and after the last task; empty where it was dense."""
        pairs = [(run.sparsity(), run.sparsity(self.tasks - 1)) for run in self.runs]
        return [(start, end) for start, end in pairs if start is not None and end is not None]

    @cached_property
    def costs(self) -> list[ExitCosts | None]:
        """What one image costs after each task [T], as the first seed's run knows it; it is the same for all."""
        return [_cost(self.runs[0].outputs_path(task)) for task in range(self.tasks)]

    @cached_property
    def all_samples(self) -> Tensor:
        """Accuracy over all samples after the last task, of each exit [S, E]."""
        return torch.stack([run.outputs(self.tasks - 1).correct.double().mean(1) for run in self.runs])


@dataclass(frozen=True)
class Comparison:
    """Groups that ran on one benchmark.

    Args:
        title: the benchmark in words.
        groups: in the order of their labels.
    """

    title: str
    groups: list[Group]

    @property
    def families(self) -> dict[str, list[Group]]:
        """The groups of each family, the one without ACs first."""
        found: dict[str, list[Group]] = defaultdict(list)
        for group in self.groups:
            found[group.family].append(group)
        return {name: sorted(groups, key=lambda group: group.has_acs) for name, groups in found.items()}

    def without_acs(self, group: Group) -> Group | None:
        """The group of the same family without ACs that is as far as `group`, if there is one."""
        like = [g for g in self.families[group.family] if not g.has_acs and g.tasks == group.tasks]
        return like[0] if group.has_acs and like else None

    @property
    def differences(self) -> list[str]:
        """The settings in which its groups differ."""
        return differing([group.settings for group in self.groups])


def compare(directories: Iterable[RunDirectory]) -> tuple[list[Comparison], list[RunDirectory]]:
    """Sorts runs into comparisons, one for each benchmark.

    Returns:
        The comparisons, and the runs that have no finished task.
    """
    distinct = {directory.path.resolve(): directory for directory in directories}.values()
    empty = [directory for directory in distinct if not directory.records]
    finished = [directory for directory in distinct if directory.records]
    by_benchmark = _grouped((_benchmark(hyperparameters(d.config)), d) for d in finished)
    comparisons = [Comparison(_title(runs[0].config, runs), _groups(runs)) for runs in by_benchmark.values()]
    named = Counter(comparison.title for comparison in comparisons)
    number: Counter[str] = Counter()
    for place, comparison in enumerate(comparisons):
        if named[comparison.title] > 1:
            number[comparison.title] += 1
            title = f"{comparison.title}, settings {number[comparison.title]}"
            comparisons[place] = Comparison(title, comparison.groups)
    return comparisons, empty


def _cost(path: Path) -> ExitCosts | None:
    """What a file of outputs says of the cost; None where it is missing or cannot be read."""
    with suppress(DamagedRun), reading(path, "the accuracies in metrics.jsonl remain"):
        return ExitCosts.load(path)
    return None


def _benchmark(settings: Mapping[str, Value]) -> Hashable:
    """What makes runs comparable."""
    return tuple(sorted((name, value) for name, value in settings.items() if name.split(".")[0] == "benchmark"))


def _title(config: Mapping[str, Any], runs: Sequence[RunDirectory]) -> str:
    settings = hyperparameters(config)
    return f"{settings.get('benchmark', 'one benchmark')}, {_total(runs)} tasks"


def _total(runs: Sequence[RunDirectory]) -> int:
    """The tasks of a benchmark: the most that a run has in all, or else has finished."""
    return _told_total(runs, max(run.records[-1].task + 1 for run in runs))


def _told_total(runs: Sequence[RunDirectory], default: int) -> int:
    """The most tasks that any of `runs` says it has in all."""
    return max((told for run in runs if (told := run.tasks_in_all) is not None), default=default)


def _groups(runs: Sequence[RunDirectory]) -> list[Group]:
    total = _total(runs)
    cells = _grouped((_identity(run), run) for run in runs)
    members = [tuple(sorted(each, key=lambda run: run.config.get("seed", 0))) for each in cells.values()]
    settings = [_settings(each[0]) for each in members]
    groups = [
        Group(family, str(own["exits"]), each, own, each[0].records[-1].task + 1, _told_total(each, total))
        for family, each, own in zip(_families(settings), members, settings, strict=True)
    ]
    return sorted(groups, key=lambda group: (group.family.lower(), group.has_acs, group.label))


def _settings(run: RunDirectory) -> dict[str, Value]:
    """The settings of a run, the seed aside; a run that says nothing of its ACs is seen to have some."""
    settings = hyperparameters(run.config)
    settings.pop("seed", None)
    if "stream" not in settings:
        settings |= {"stream": "ClassIncremental", "stream.boundaries": True}
    if settings["exits"] == "none" and len(run.records[-1].relative_cost) > 1:
        settings["exits"] = "ACs"
    return settings


def _identity(run: RunDirectory) -> Hashable:
    """What the seeds of one group have in common."""
    return tuple(sorted(_settings(run).items())), run.records[-1].task


def _families(settings: Sequence[Mapping[str, Value]]) -> list[str]:
    """A name for each of some settings: the approach, and what else tells it from others with the same exits."""
    approaches = [str(each.get("approach", "run")) for each in settings]
    telling: dict[Hashable, list[str]] = {}
    for approach, alike in _grouped(zip(approaches, settings, strict=True)).items():
        same_exits = _grouped((each["exits"], each) for each in alike).values()
        telling[approach] = list(dict.fromkeys(name for some in same_exits for name in differing(some)))
    return [
        ", ".join(
            [approach, *(_said(name, each.get(name)) for name in telling[approach] if _has(name, each, settings))]
        )
        for approach, each in zip(approaches, settings, strict=True)
    ]


def _has(name: str, one: Mapping[str, Value], settings: Sequence[Mapping[str, Value]]) -> bool:
    """Whether the class that `one` names has the option `name`, as far as others of `settings` tell."""
    kind, dot, _ = name.partition(".")
    return not dot or any(name in each for each in settings if each.get(kind) == one.get(kind))


def differing(settings: Sequence[Mapping[str, Value]]) -> list[str]:
    """The names whose values are not the same in all of `settings`; options of a class in those that name the class."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [
        name
        for name in names
        if any(len({each.get(name) for each in alike}) > 1 for alike in _of_one_class(name, settings).values())
    ]


def _of_one_class(name: str, settings: Sequence[Mapping[str, Value]]) -> dict[Hashable, list[Any]]:
    """`settings` by the class that the option `name` is of; all together where it is no option of a class."""
    kind, dot, _ = name.partition(".")
    return _grouped((each.get(kind) if dot else None, each) for each in settings)


def _said(name: str, value: Value | None) -> str:
    """A setting in few words: a class by its name, an option with its own."""
    if value is None or name in ("backbone", "classifier"):
        return str(value) if value is not None else f"no {name}"
    return f"{name.removeprefix('approach.').removeprefix('training.')} {value}"


def _grouped(pairs: Iterable[tuple[Hashable, Any]]) -> dict[Hashable, list[Any]]:
    found: dict[Hashable, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
