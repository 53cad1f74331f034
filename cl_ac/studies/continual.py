"""Choosing settings task by task, as the tasks arrive (the framework of De Lange et al., 2022).

For each task, the settings with which fine-tuning learns it best are found first: the highest plasticity. Then the
strength of what holds the network back begins high and is halved until the task is learned almost as well. Each task
goes on from the network that the choice for the task before it left.
"""

import io
import itertools
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from rich.console import Console

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.branch import branch
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.report.formats import Cell, ResultTable, Spread
from cl_ac.studies.blind import Sight, check_choice, prepared, run_blind
from cl_ac.studies.chosen import cell
from cl_ac.studies.runs import Engine
from cl_ac.studies.search import Range, Search, Value
from cl_ac.studies.study import run_name


@dataclass(frozen=True)
class Continual:
    """A search task by task, in a folder.

    Args:
        search: what is searched: the range of the strength, and lists of values of the settings that decide how well
            fine-tuning learns.
        sight: the tasks.
        out: the folder.
        strength: the setting that holds the network back; 0 is fine-tuning.
        tolerance: share of fine-tuning's accuracy that may be lost on the task being learned.
    """

    search: Search
    sight: Sight
    out: Path
    strength: str
    tolerance: float

    def __post_init__(self) -> None:
        values = self.search.space.get(self.strength)
        if not isinstance(values, Range):
            raise ConfigurationError(
                f"--strength is '{self.strength}', which is no setting with a range in the search's grid; the protocol "
                "'continual' lowers it from 'high' to 'low'"
            )
        if ranges := [n for n, each in self.search.space.items() if isinstance(each, Range) and n != self.strength]:
            raise ConfigurationError(
                f"{ranges[0]} is a range; beside --strength the protocol 'continual' tries every value of lists"
            )
        if not 0 <= self.tolerance < 1:
            raise ConfigurationError(f"--tolerance is {self.tolerance}; it must be at least 0 and below 1")
        self.sight.first(1)
        try:
            for each in self.plasticities:
                check_choice(self.search, {**each, self.strength: 0.0})
        except UserError as error:
            raise ConfigurationError(
                f"--strength is '{self.strength}', which the protocol 'continual' sets to 0 first, but {error}"
            ) from error

    @property
    def plasticities(self) -> list[dict[str, Value]]:
        """All combinations of the settings beside the strength."""
        lists = {name: values for name, values in self.search.space.items() if isinstance(values, list)}
        return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]

    def strengths(self) -> Iterator[float]:
        """From high to low by halves; the lowest is taken if none is good enough."""
        values = self.search.space[self.strength]
        assert isinstance(values, Range)
        strength = float(values.high)
        while strength > values.low:
            yield strength
            strength /= 2
        yield float(values.low)

    def folder(self, task: int, chosen: Mapping[str, Value], seed: int) -> Path:
        """The folder of one run."""
        return self.out / f"task_{task}" / (run_name(chosen) or "as_given") / f"seed={seed}"


@dataclass(frozen=True)
class Choice:
    """What was chosen for a task.

    Args:
        chosen: the settings.
        plastic: accuracy of fine-tuning on the task.
        accuracy: accuracy on the task with the choice; both on held-out images, with the task known.
        tried: strengths that were tried.
    """

    chosen: dict[str, Value]
    plastic: float
    accuracy: float
    tried: int


def choose(plan: Continual, engine: Engine, console: Console) -> list[Choice]:
    """Chooses settings for each task in turn; runs that are there already are not repeated.

    Raises:
        UserError: if no settings learn a task.
    """
    choices: list[Choice] = []
    for task in range(plan.sight.tasks):
        before = choices[-1].chosen if choices else None
        plastic = [{**each, plan.strength: 0.0} for each in plan.plasticities]
        learned = _all(engine, learn_task, [(plan, task, before, each) for each in plastic])
        accuracies = [_value(result, run_name(each), console) for each, result in zip(plastic, learned, strict=True)]
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        if not known:
            raise UserError(f"no settings of the search learn task {task + 1}")
        best = plastic[accuracies.index(max(known))]
        (settled,) = _all(engine, lower_strength, [(plan, task, before, best, max(known))])
        choice = _value(settled, run_name(best), console)
        if choice is None:
            raise UserError(f"no strength of the search learns task {task + 1}")
        choices.append(choice)
        console.print(
            f"task {task + 1}/{plan.sight.tasks}  {run_name(choice.chosen)}  {percent(choice.accuracy)} %, "
            f"fine-tuning {percent(choice.plastic)} %",
            highlight=False,
            soft_wrap=True,
        )
    return choices


def _all(engine: Engine, work: Callable[..., Any], pieces: Sequence[tuple]) -> list[Any]:
    """What `told_if_it_fails` gives of each piece, in order."""
    found: list[Any] = [None] * len(pieces)
    with closing(engine.do(work, pieces, lambda index: None)) as ended:
        for index, result, killed in ended:
            found[index] = (None, "its process was killed twice") if killed else result
    return found


def _value(result: tuple[Any, str | None], name: str, console: Console) -> Any:
    """What a piece came to; None if it failed, which is told."""
    value, problem = result
    if problem:
        console.print(f"{name}  failed: {problem}", highlight=False, soft_wrap=True)
    return value


def told_if_it_fails(work: Callable[..., Any]) -> Callable[..., tuple[Any, str | None]]:
    """`work` in silence, as a function that returns what it came to, and what went wrong, or None."""

    @wraps(work)
    def told(*piece: Any) -> tuple[Any, str | None]:
        try:
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                return work(*piece), None
        except UserError as error:
            return None, str(error)
        except Exception:
            return None, traceback.format_exc()

    return told


@told_if_it_fails
def learn_task(plan: Continual, task: int, before: Mapping[str, Value] | None, chosen: Mapping[str, Value]) -> float:
    """Learns one task with some settings, from where the choice for the task before it led.

    Returns:
        Its accuracy on held-out images of the task itself with the task known, mean over seeds.
    """
    return _learned(plan, task, before, chosen)


@told_if_it_fails
def lower_strength(
    plan: Continual, task: int, before: Mapping[str, Value] | None, best: Mapping[str, Value], plastic: float
) -> Choice:
    """Lowers the strength until the task is learned within the tolerance below the accuracy `plastic`."""
    tried = 0
    for strength in plan.strengths():
        chosen, tried = {**best, plan.strength: strength}, tried + 1
        accuracy = _learned(plan, task, before, chosen)
        if accuracy >= (1 - plan.tolerance) * plastic:
            break
    return Choice(chosen, plastic, accuracy, tried)


def _learned(plan: Continual, task: int, before: Mapping[str, Value] | None, chosen: Mapping[str, Value]) -> float:
    accuracies = []
    for seed in plan.search.seeds:
        made = prepared(plan.search.options(chosen, seed), plan.sight.first(task + 1), plan.folder(task, chosen, seed))
        if before is not None:
            branch(RunDirectory(plan.folder(task - 1, before, seed)), made.directory, made.config)
        accuracies.append(run_blind(made).records[-1].most_confident_task_incremental[task])
    return sum(accuracies) / len(accuracies)


def one_for_all(plan: Continual, choices: Sequence[Choice]) -> dict[str, Value]:
    """Settings for a whole run: the lowest strength, which left every task plastic enough, and of the others the
    combination chosen most often.
    """
    others = [tuple((n, v) for n, v in each.chosen.items() if n != plan.strength) for each in choices]
    (common, _), *_ = Counter(others).most_common(1)
    return {**dict(common), plan.strength: min(float(each.chosen[plan.strength] or 0) for each in choices)}


def choice_table(choices: Sequence[Choice], names: Sequence[str]) -> ResultTable:
    """The choice for each task."""
    rows: list[list[Cell]] = []
    for number, each in enumerate(choices, start=1):
        settings = [cell(each.chosen.get(name)) for name in names]
        rows.append([number, *settings, each.tried, Spread((each.plastic,)), Spread((each.accuracy,))])
    title = "Accuracy on held-out images of the task being learned, with the task known, %, mean over seeds"
    return ResultTable("choices", title, ["task", *names, "strengths tried", "fine-tuning", "chosen"], rows)
