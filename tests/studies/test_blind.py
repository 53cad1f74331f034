import importlib
from dataclasses import replace

import pytest
import yaml

from cl_ac.cli.main import main
from cl_ac.errors import ConfigurationError
from cl_ac.settings.configured import configured
from cl_ac.studies.blind import Sight, best_settings, prepared, run_blind
from cl_ac.studies.search import Range, Search


def search_of(path, **space) -> Search:
    return Search(str(path), space or {"approach.strength": Range(0.1, 10)}, [0], {})


def test_a_run_that_is_not_blind_is_caught_by_the_guard(guarded_settings, tmp_path):
    with pytest.raises(RuntimeError, match="looked at"):
        main(["run", "--config", str(guarded_settings()), "--out", str(tmp_path / "runs")])


def test_a_blind_run_looks_at_no_test_image_and_is_judged_by_held_out_ones(guarded_settings, tmp_path):
    search = search_of(guarded_settings())
    made = prepared(search.options({"approach.strength": 1.0}, 0), Sight.of(search), tmp_path / "runs" / "one")
    directory = run_blind(made)
    outputs = directory.outputs(2)
    held_out = [task.validation for task in made.benchmark.tasks]
    assert outputs.targets.tolist() == [target for part in held_out for target in part.targets.tolist()]
    assert len(outputs.targets) == 6 * 3
    assert directory.config["benchmark"]["init_args"]["evaluate_on"] == "validation"


def test_runs_on_the_first_tasks_look_at_no_class_of_later_ones(guarded_settings, tmp_path):
    search = search_of(guarded_settings(allowed=4))
    sight = Sight.of(search, 2)
    assert sight.sizes == [2, 2]
    options = search.options({"approach.strength": 1.0}, 0)
    assert len(run_blind(prepared(options, sight, tmp_path / "two")).records) == 2
    with pytest.raises(RuntimeError, match="looked at"):
        prepared(options, Sight.of(search), tmp_path / "three")


def test_epochs_listed_for_each_task_are_cut_with_the_tasks(guarded_settings, tmp_path):
    search = Search(str(guarded_settings()), {"approach.strength": Range(0.1, 10)}, [0], {"training.epochs": [1, 2, 3]})
    made = prepared(search.options({"approach.strength": 1.0}, 0), Sight.of(search).first(2), tmp_path / "run")
    assert made.training.epochs == [1, 2]


def test_a_benchmark_that_shows_test_images_all_the_same_is_refused(guarded_settings, tmp_path, monkeypatch):
    search = search_of(guarded_settings())
    sight = Sight.of(search)
    guarded = importlib.import_module("guarded")
    honest = guarded.GuardedPatterns(tasks=3, allowed=6, validation=0.25, evaluate_on="validation").tasks
    shown = [replace(task, test=task.train) for task in honest]
    monkeypatch.setattr(guarded.GuardedPatterns, "tasks", shown)
    with pytest.raises(ConfigurationError, match="does not leave out test images"):
        prepared(search.options({"approach.strength": 1.0}, 0), sight, tmp_path / "run")


def er_on(path, stream, **options) -> Search:
    """A search of the rate with exemplars on a stream."""
    options = {"stream": stream, "approach": "ER", "memory.size": 40, "training.epochs": 1, **options}
    return Search(str(path), {"training.lr": Range(0.01, 0.1)}, [0], options)


@pytest.mark.parametrize("stream", ["LongTailed", "NoisyLabels", "RotatedImages", "SlotRepetition"])
def test_a_stream_whose_first_tasks_depend_on_their_number_is_not_cut(guarded_settings, stream):
    search = er_on(guarded_settings(), stream, **({"stream.classes": 3} if stream == "SlotRepetition" else {}))
    assert Sight.of(search).tasks == Sight.of(search, 3).tasks == 3
    with pytest.raises(ConfigurationError, match=f"{stream} cannot leave later tasks out"):
        Sight.of(search, 2)


def test_there_may_be_more_domains_than_classes(guarded_settings, tmp_path):
    search = er_on(guarded_settings(), "PermutedPixels", **{"benchmark.tasks": 7})
    sight = Sight.of(search)
    assert sight.tasks == 7
    made = prepared(search.options({"training.lr": 0.05}, 0), sight, tmp_path / "run")
    assert len(made.benchmark.tasks) == 7


def test_settings_are_chosen_on_data_sets_one_after_the_other_but_on_all(guarded_settings, tmp_path):
    part = {"class_path": "guarded.GuardedPatterns", "init_args": {}}
    benchmark = {"benchmark": "Sequence", "benchmark.parts": [part, part], "benchmark.size": 8}
    search = er_on(guarded_settings(), "ClassIncremental", **benchmark)
    sight = Sight.of(search)
    made = prepared(search.options({"training.lr": 0.05}, 0), sight, tmp_path / "run")
    assert [task.test is task.validation for task in made.benchmark.tasks] == [True, True]
    with pytest.raises(ConfigurationError, match="Sequence cannot leave later tasks out"):
        Sight.of(search, 1)


@pytest.mark.parametrize("validation", [0.0, "test"])
def test_nothing_held_out_is_nothing_to_choose_by(guarded_settings, validation):
    with pytest.raises(ConfigurationError, match=r"benchmark.validation is .*hold out a share"):
        Sight.of(search_of(guarded_settings(validation=validation)))


@pytest.mark.parametrize("name", ["benchmark.tasks", "benchmark.validation", "device", "stream", "stream.rate"])
def test_what_judges_the_choices_is_not_chosen(guarded_settings, name):
    with pytest.raises(ConfigurationError, match=f"{name} is in the search's grid"):
        Sight.of(search_of(guarded_settings(), **{name: [2, 3]}))


@pytest.mark.parametrize(("values", "words"), [(Range(1, 1e13), "is 1"), ([1, -2, 3], "is -2")])
def test_ends_of_ranges_and_all_values_must_make_a_run(guarded_settings, values, words):
    with pytest.raises(ConfigurationError, match=f"approach.strength {words}"):
        Sight.of(search_of(guarded_settings(), **{"approach.strength": values}))


def test_best_settings_are_those_of_a_run_on_all_tasks_and_test_images(guarded_settings, tmp_path):
    search = search_of(guarded_settings())
    settings = best_settings(search, {"approach.strength": 3.5})
    assert settings["approach"]["init_args"]["strength"] == 3.5
    assert settings["benchmark"]["init_args"]["evaluate_on"] == "test"
    assert settings["benchmark"]["init_args"]["classes_per_task"] is None
    assert not {"out", "name", "resume", "seed"} & settings.keys()
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(settings))
    assert configured({"config": tmp_path / "best.yaml"}).approach.strength == 3.5
