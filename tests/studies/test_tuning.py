import math

import pytest
from rich.console import Console

from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.recording.records import Record
from cl_ac.recording.rundir import RunDirectory
from cl_ac.settings.configured import configured
from cl_ac.studies.blind import Sight
from cl_ac.studies.search import Range, Search

optuna = pytest.importorskip("optuna", reason="tuning needs optuna (pip install 'cl_ac[tune]')")
from cl_ac.studies import tuning as tuning_module  # noqa: E402
from cl_ac.studies.chosen import Ended, for_people, trial_table  # noqa: E402
from cl_ac.studies.tuning import Tuning, best_of, do_trial, mean_accuracy, trials_of, tune  # noqa: E402

QUIET = Console(quiet=True)
SPACE = {"approach.strength": Range(0.1, 10, True), "training.lr": [0.001, 0.05]}


@pytest.fixture
def make(guarded_settings, tmp_path):
    """Makes a search on two guarded tasks in a folder."""

    def tuning(name: str = "tune", trials: int = 3, seeds=(0,), space=SPACE) -> Tuning:
        search = Search(str(guarded_settings(allowed=4)), space, list(seeds), {})
        (tmp_path / name).mkdir(exist_ok=True)
        return Tuning(search, Sight.of(search, 2), tmp_path / name, trials, 0)

    return tuning


def chosen(study) -> list[tuple]:
    return [(trial.params, trial.value, trial.state, trial.intermediate_values) for trial in study.trials]


def test_a_trial_is_the_mean_over_tasks_and_seeds_of_held_out_accuracy(make, here):
    tuning = make(trials=1, seeds=(0, 1))
    (trial,) = tune(tuning, here, QUIET).trials
    finals = [RunDirectory(tuning.folder(0) / f"seed={seed}").records[-1].most_confident for seed in (0, 1)]
    assert trial.value == pytest.approx(sum(sum(final) for final in finals) / 4)
    assert len(trial.intermediate_values) == 4
    assert 0.1 <= trial.params["approach.strength"] <= 10
    config = RunDirectory(tuning.folder(0) / "seed=1").config
    assert config["approach"]["init_args"]["strength"] == trial.params["approach.strength"]
    assert config["training"]["lr"] == trial.params["training.lr"]


def test_a_task_that_is_not_tested_counts_in_no_mean():
    row = [0.5, math.nan, 1.0]
    record = Record(2, [2, 0, 2], [[each] for each in row], row, [[each] for each in row], row, [1.0], 0.0)
    assert mean_accuracy(record) == 0.75


def test_a_search_on_classes_that_come_again_finishes_its_trials(guarded_settings, here, tmp_path):
    stream = {"stream": "SlotRepetition", "stream.classes": 3, "benchmark.tasks": 4}
    options = {**stream, "approach": "FineTuning", "training.epochs": 1}
    search = Search(str(guarded_settings()), {"training.lr": Range(0.01, 0.1, True)}, [0], options)
    tuning = Tuning(search, Sight.of(search), tmp_path, 1, 0)
    (trial,) = tune(tuning, here, QUIET).trials
    assert trial.state == optuna.trial.TrialState.COMPLETE, trial.user_attrs
    assert 0 <= trial.value <= 1
    assert math.isnan(RunDirectory(tuning.folder(0) / "seed=0").records[-1].most_confident[-1])
    assert sorted(trial.intermediate_values) == [0, 1, 2, 3]


def test_a_search_killed_within_a_trial_ends_as_one_that_never_was(make, here, monkeypatch):
    whole = chosen(tune(make("whole"), here, QUIET))

    def interrupted(trial, value, step):
        if trial.number == 1 and step == 1:
            raise KeyboardInterrupt  # as a kill would, nothing is said to anybody
        report(trial, value, step)

    report = optuna.trial.Trial.report
    monkeypatch.setattr(optuna.trial.Trial, "report", interrupted)
    tuning = make("killed")
    with pytest.raises(KeyboardInterrupt):
        tune(tuning, here, QUIET)
    assert [trial.state.name for trial in tuning.open().trials] == ["COMPLETE", "RUNNING"]
    monkeypatch.setattr(optuna.trial.Trial, "report", report)
    assert chosen(tune(tuning, here, QUIET)) == whole
    assert len({str(params) for params, *_ in whole}) == 3


def test_a_trial_that_another_process_is_at_is_left_to_it(make, here):
    tuning = make(trials=2)
    study = tuning.open()
    with tuning_module._claimed(study, tuning) as other:
        assert other.number == 0
        assert do_trial(tuning).number == 1
        assert do_trial(tuning) is None
    assert do_trial(tuning).number == 0


def test_a_trial_behind_the_median_is_given_up_after_its_task(make, here, monkeypatch):
    monkeypatch.setattr(tuning_module, "BEFORE_PRUNING", 1)
    accuracies = iter([0.9, 0.8, 0.3, 0.2, 0.4, 0.5, 0.1, 0.6])
    monkeypatch.setattr(tuning_module, "mean_accuracy", lambda record: next(accuracies))
    tuning = make(trials=2, seeds=(0, 1))
    ended = trials_of(tune(tuning, here, QUIET))
    # Of the first trial 0.9, 0.8 and the last accuracy 0.3 of its first seed, then the second seed.
    assert [each.outcome for each in ended] == ["finished", "pruned"]
    assert ended[1].tasks == 2
    assert not (tuning.folder(1) / "seed=1").exists()


def test_settings_that_fail_are_told_and_the_search_goes_on(make, here, capsys, monkeypatch):
    def accuracy(trial, tuning):
        if trial.number < 2:
            raise UserError("lower training.lr") if trial.number else ZeroDivisionError
        return 0.5

    monkeypatch.setattr(tuning_module, "_accuracy", accuracy)
    ended = trials_of(tune(make(), here, Console(stderr=True)))
    assert [each.outcome for each in ended] == ["failed", "failed", "finished"]
    assert "ZeroDivisionError" in ended[0].problem
    assert ended[1].problem == "lower training.lr"
    assert "failed: lower training.lr" in capsys.readouterr().err
    assert best_of(ended).number == 2


def test_a_folder_holds_one_search(make, here):
    make().open()
    with pytest.raises(ConfigurationError, match="holds another search"):
        make(space={"approach.strength": Range(0.1, 5)}).open()


def test_the_best_trial_is_first_and_failed_ones_are_last():
    trials = [
        Ended(0, {"lr": 1.0}, None, 1),
        Ended(1, {"lr": 2.0}, 0.25, 2),
        Ended(2, {"lr": None}, None, 0, "why"),
        Ended(3, {"lr": 4.0}, 0.75, 2),
    ]
    table = trial_table(trials, ["lr"])
    assert [row[0] for row in table.rows] == [3, 1, 0, 2]
    assert [row[2] for row in table.rows] == ["finished", "finished", "pruned", "failed"]
    assert best_of(trials).number == 3
    assert for_people(table).row_count == 4
    with pytest.raises(UserError, match="the first that failed: why"):
        best_of(trials[2:3])


def test_the_command_leaves_settings_that_run_a_table_and_optunas_plots(guarded_settings, tmp_path, capsys):
    search = tmp_path / "search.yaml"
    search.write_text(
        f"config: {guarded_settings(allowed=4)}\nset: {{training.epochs: 4}}\n"
        "grid: {approach.strength: {low: 0.1, high: 10, log: true}, training.lr: [0.001, 0.2]}\n"
    )
    out = tmp_path / "tuned"
    words = ["tune", str(search), "--out", str(out), "--protocol", "first_tasks", "--tasks", "2", "--trials", "6"]
    assert main([*words, "--workers", "2"]) == 0
    printed = capsys.readouterr()
    assert "of the first 2 tasks, and of no later one" in printed.out
    assert "6 trials in" in printed.err
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2
    assert (out / "figures" / "importance.png").exists()
    assert len((out / "tables" / "trials.csv").read_text().splitlines()) == 7
    assert (out / "best.yaml").read_text().startswith("# Chosen by held-out images of the first 2 tasks")
    best = configured({"config": out / "best.yaml"})
    assert best.training.lr in (0.001, 0.2)
    assert best.benchmark.sizes == [2, 2, 2]
