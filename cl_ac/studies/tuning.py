"""Choosing settings with Optuna: choices are drawn where earlier ones were good, and given up early where they fail.

All that is known is in files: `trials.log`, Optuna's journal, and the folder of each trial with its runs. So any number
of processes take part, and a trial that a killed one leaves behind is gone on with from its last finished epoch.
"""

import hashlib
import io
import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from cl_ac.errors import ConfigurationError, UserError
from cl_ac.evaluation import average
from cl_ac.recording.lock import exclusive
from cl_ac.recording.progress import Standing
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.summary import percent
from cl_ac.studies.blind import Sight, prepared, run_blind
from cl_ac.studies.chosen import Ended, cell
from cl_ac.studies.runs import Engine
from cl_ac.studies.search import Search

# Choices that are drawn before the median of earlier ones gives any up.
BEFORE_PRUNING = 5
JOURNAL = "trials.log"


@dataclass(frozen=True)
class Tuning:
    """A search in a folder.

    Args:
        search: what is searched.
        sight: what its runs may see.
        out: the folder.
        trials: choices in all, by all processes that take part.
        seed: of the draws.
    """

    search: Search
    sight: Sight
    out: Path
    trials: int
    seed: int

    def open(self) -> optuna.Study:
        """The search as far as it is, begun if it is not.

        Raises:
            ConfigurationError: if the folder holds another search.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(self.out / JOURNAL))),
            study_name="search",
            direction="maximize",
            # After the first task nothing can be forgotten yet.
            pruner=optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING, n_warmup_steps=1),
            load_if_exists=True,
        )
        content = json.dumps([asdict(self.search), asdict(self.sight), self.seed], sort_keys=True)
        if (before := study.user_attrs.get("search")) is None:
            study.set_user_attr("search", content)
        elif before != content:
            raise ConfigurationError(
                f"'{self.out}' holds another search, with other ranges, settings, protocol or seed; give another --out"
            )
        return study

    def folder(self, number: int) -> Path:
        """The folder of a trial, which holds that of each of its runs."""
        return self.out / f"trial_{number:04d}"


def tune(tuning: Tuning, engine: Engine, console: Console) -> optuna.Study:
    """Does the trials that are not done yet, by this and all other processes at work in the folder.

    Raises:
        ConfigurationError: if the folder holds another search.
    """
    over = _over(tuning.open())
    console.print(
        f"{tuning.trials} trials in {tuning.out}, {len(over)} of them done before; {engine}",
        highlight=False,
        soft_wrap=True,
    )
    pieces = [(tuning,)] * (tuning.trials - len(over))
    with closing(engine.do(do_trial, pieces, lambda index: None)) as ended:
        for _, done, killed in ended:
            if killed:
                told = "a trial's process was killed twice, perhaps for want of memory; repeat the command to go on"
            elif done is None:
                continue  # another process took what was left
            else:
                settings = "  ".join(f"{name}={cell(value)}" for name, value in done.chosen.items())
                result = done.outcome if done.accuracy is None else percent(done.accuracy) + " %"
                told = f"trial {done.number}  {settings}  {result}" + (f": {done.problem}" if done.problem else "")
            console.print(told, highlight=False, soft_wrap=True)
    return tuning.open()


def trials_of(study: optuna.Study) -> list[Ended]:
    """What came of each trial that is over."""
    return [_ended(trial) for trial in _over(study)]


def best_of(trials: Sequence[Ended]) -> Ended:
    """The finished trial of the highest accuracy.

    Raises:
        UserError: if none is finished.
    """
    finished = [each for each in trials if each.accuracy is not None]
    if not finished:
        problems = [each.problem for each in trials if each.problem]
        raise UserError("no trial is finished" + (f"; the first that failed: {problems[0]}" if problems else ""))
    return max(finished, key=lambda each: each.accuracy or 0)


def _over(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def do_trial(tuning: Tuning) -> Ended | None:
    """Does one trial in this process; None if there is none left to do."""
    study = tuning.open()
    with _claimed(study, tuning) as trial:
        if trial is None:
            return None
        _draw(trial, tuning)
        try:
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                accuracy = _accuracy(trial, tuning)
        except optuna.TrialPruned:
            return _ended(study.tell(trial, state=TrialState.PRUNED))
        except Exception as error:
            trial.set_user_attr("problem", str(error) if isinstance(error, UserError) else traceback.format_exc())
            return _ended(study.tell(trial, state=TrialState.FAIL))
        return _ended(study.tell(trial, accuracy))


@contextmanager
def _claimed(study: optuna.Study, tuning: Tuning) -> Iterator[Trial | None]:
    """A trial that is this process's alone: one that a killed process left behind, or else a new one."""
    with ExitStack() as held:
        # Whoever looks for a trial looks alone, and what begins is claimed before anybody else looks.
        with exclusive(tuning.out / "looking", wait=True):
            trial = None
            for left in study.get_trials(states=(TrialState.RUNNING,)):
                try:
                    held.enter_context(_claim(tuning, left.number))
                except ConfigurationError:
                    continue
                # Optuna has no other way to go on with a trial of a process that is gone.
                trial = Trial(study, left._trial_id)
                break
            else:
                if len(study.get_trials(deepcopy=False)) < tuning.trials:
                    trial = study.ask()
                    held.enter_context(_claim(tuning, trial.number))
        yield trial


@contextmanager
def _claim(tuning: Tuning, number: int) -> Iterator[None]:
    tuning.folder(number).mkdir(exist_ok=True)
    with exclusive(tuning.folder(number) / "claim"):
        yield


def _draw(trial: Trial, tuning: Tuning) -> None:
    """Draws the trial's settings by a stream of its own, so that a search that was killed draws what it would have."""
    digest = hashlib.sha256(f"{tuning.seed} {trial.number}".encode()).digest()
    trial.study.sampler = optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4], "big"))
    for name, values in tuning.search.space.items():
        if isinstance(values, list):
            trial.suggest_categorical(name, values)
        elif values.whole:
            trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
        else:
            trial.suggest_float(name, values.low, values.high, log=values.log)


def _accuracy(trial: Trial, tuning: Tuning) -> float:
    """The accuracy of the trial's settings on held-out images of the tasks seen, mean over tasks, then over seeds.

    Raises:
        TrialPruned: if it is behind most others after as many tasks.
    """
    search, tasks = tuning.search, tuning.sight.tasks
    reported = {*trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values}

    def report(directory: RunDirectory, place: int) -> None:
        for record in directory.records:
            step = place * tasks + record.task
            if step in reported:
                continue
            reported.add(step)
            trial.report(mean_accuracy(record), step)
            if step + 1 < tasks * len(search.seeds) and trial.should_prune():
                raise optuna.TrialPruned

    accuracies = []
    for place, seed in enumerate(search.seeds):
        made = prepared(search.options(trial.params, seed), tuning.sight, tuning.folder(trial.number) / f"seed={seed}")
        if made.directory.has_results:
            report(made.directory, place)

        def heard(standing: Standing, directory: RunDirectory = made.directory, place: int = place) -> None:
            if standing.epoch == 0:
                report(directory, place)

        accuracies.append(mean_accuracy(run_blind(made, heard).records[-1]))
    return sum(accuracies) / len(accuracies)


def mean_accuracy(record: Record) -> float:
    """Accuracy of the most confident exit, mean over the tasks seen that are tested."""
    return average(torch.tensor(record.most_confident, dtype=torch.float64)).item()


def _ended(trial: FrozenTrial) -> Ended:
    """What came of a trial that is over."""
    problem = trial.user_attrs.get("problem")
    accuracy = trial.value if trial.state == TrialState.COMPLETE else None
    return Ended(trial.number, trial.params, accuracy, len(trial.intermediate_values), problem)
