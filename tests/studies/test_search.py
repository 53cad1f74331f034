import pytest
import yaml

from cl_ac.errors import ConfigurationError
from cl_ac.studies.search import Range, Search


def write(path, grid, **others) -> str:
    (path / "search.yaml").write_text(yaml.safe_dump({"config": "settings.yaml", "grid": grid, **others}))
    return str(path / "search.yaml")


def test_ranges_and_lists_are_read_and_seeds_are_averaged_over(tmp_path):
    grid = {"approach.strength": {"low": 0.1, "high": 10, "log": True}, "exits": [None, "sdn"], "seed": [3, 4]}
    search = Search.read(write(tmp_path, grid, set={"device": "cpu"}))
    assert search.space == {"approach.strength": Range(0.1, 10, True), "exits": [None, "sdn"]}
    assert search.seeds == [3, 4]
    assert search.probes == [
        {"approach.strength": 0.1, "exits": None},
        {"approach.strength": 10, "exits": None},
        {"approach.strength": 0.1, "exits": "sdn"},
    ]
    assert search.options({"exits": "sdn"}, 4) == {
        "config": "settings.yaml",
        "device": "cpu",
        "exits": "sdn",
        "seed": 4,
    }


@pytest.mark.parametrize(("low", "high", "whole"), [(1, 5, True), (1, 5.0, False), (0.5, 2, False)])
def test_a_range_of_whole_numbers_draws_whole_numbers(low, high, whole):
    assert Range(low, high).whole == whole


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"training.lr": {"low": 1, "high": 0.1}}, ["training.lr goes from 1 to 0.1", "below 'high'"]),
        ({"training.lr": {"low": 0, "high": 1, "log": True}}, ["training.lr begins at 0", "above 0"]),
        ({"training.lr": {"low": 0.1}}, ["training.lr is", "{low: 0.1, high: 10, log: true}"]),
        ({"training.lr": {"low": 0.1, "high": 1, "step": 2}}, ["training.lr is"]),
        ({"training.lr": {"low": True, "high": 2}}, ["training.lr is"]),
        ({"training.lr": 0.1}, ["training.lr is '0.1'", "a list of values"]),
        ({"training.lr": [0.1, [0.2]]}, ["training.lr has '[0.2]'"]),
        ({"training.lr": [0.1, 0.1]}, ["lists a value twice"]),
        ({"training.lr": [0.1], "exits": [None]}, ["nothing to choose"]),
        ({"training.lr": [0.1, 0.2], "seed": {"low": 0, "high": 3}}, ["seed in the search", "averaged"]),
        ([{"training.lr": [0.1, 0.2]}, {"training.lr": [1, 2]}], ["needs one 'grid'"]),
        ({}, ["needs 'config'", "'grid'"]),
    ],
)
def test_what_is_no_search_is_one_sentence(tmp_path, grid, words):
    with pytest.raises(ConfigurationError) as error:
        Search.read(write(tmp_path, grid))
    assert all(word in str(error.value) for word in words)
