from typing import Annotated, Literal

import pytest

from cl_ac.errors import ConfigurationError
from cl_ac.settings.checking import Checker, told
from cl_ac.settings.parser import checker
from cl_ac.training import Training


class Plugin:
    """A class with a little of everything."""

    def __init__(
        self,
        number: float = 1.0,
        count: int | None = None,
        mode: Literal["a", "b"] = "a",
        pairs: tuple[float, float] = (0.0, 1.0),
        table: dict[str, int] | None = None,
        odd: Annotated[list[str], "note"] = (),
    ):
        pass


@pytest.mark.parametrize(
    ("option", "right", "wrong"),
    [
        ("number", [1, 2.5], [None, True, "1", float("nan"), float("inf"), [1.0], 1e300]),
        ("count", [None, 3], [1.5, False, "x", 2**40]),
        ("mode", ["a", "b"], ["c", None, 0]),
        ("pairs", [[0, 1], (0.5, 1)], [[0], [0, None], 1, "ab"]),
        ("table", [None, {"a": 1}], [[1], "a", 1]),
        ("odd", [["x"], []], ["x", [1], None]),
    ],
)
def test_values_are_of_their_annotated_types(option, right, wrong):
    check = Checker({}, {"plugin": Plugin})
    for value in right:
        assert check.settings({"plugin": {option: value}}) == {"plugin": {option: value}}
    for value in wrong:
        with pytest.raises(ConfigurationError, match=rf"^plugin\.{option} "):
            check.settings({"plugin": {option: value}})


@pytest.mark.parametrize("value", ["\x1b[31m", "a\nb", "\udcff", "x" * 5000, b"x", {1: 2}, [[[["\x00"]]]]])
def test_values_are_plain_whatever_their_type(value):
    with pytest.raises(ConfigurationError) as refused:
        checker().settings({"name": value})
    assert len(str(refused.value)) < 300


def test_deep_values_are_refused():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ConfigurationError, match="nested more than"):
        checker().settings({"name": deep})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"training": {"batch_size": 10**9}}, "training.batch_size is 1000000000; it must be at least 1 and at most"),
        (
            {"approach": {"class_path": "LwF", "init_args": {"temperature": 0}}},
            "temperature is 0; it must be at least",
        ),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be at least 0"),
        ({"resume": "maybe"}, "resume is 'maybe'; expected bool"),
        ({"trainig": {}}, "did you mean '--training'"),
        ({"classifier": {"class_path": "LwF"}}, "unknown classifier 'LwF'"),
        ({"memory": 3}, "memory is '3'; expected options such as size, per_class"),
    ],
)
def test_wrong_settings_are_named_with_what_is_allowed(settings, sentence):
    with pytest.raises(ConfigurationError) as refused:
        checker().settings(settings)
    assert sentence in str(refused.value)


def test_null_is_allowed_where_the_type_says_so():
    given = {"exits": None, "classifier": None, "name": None}
    assert checker().settings(given) == given
    for name in ("seed", "out", "device", "loggers", "resume", "training", "memory", "approach", "benchmark"):
        with pytest.raises(ConfigurationError, match=f"^{name} is null"):
            checker().settings({name: None})


def test_types_are_told_in_plain_words():
    assert told(int | list[int] | None) == "int or list[int] or null"
    assert told(Literal["a", "b"]) == "one of 'a', 'b'"
    assert told(Training).startswith("options such as epochs")
