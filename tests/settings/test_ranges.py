import inspect
from typing import get_args

import pytest

from cl_ac.errors import ConfigurationError
from cl_ac.settings.parser import INNER, PLUGINS, checker
from cl_ac.settings.plugins import classes, init_options
from cl_ac.settings.ranges import range_of

BASES = {**PLUGINS, **INNER}
KINDS = ("approach", "classifier", "stream", "generator")
OURS = [cls for kind in KINDS for cls in classes(kind, BASES[kind]).values()]


def numbers(cls):
    """The options of `cls` that are numbers, or hold some, with their defaults."""
    for option, kind in init_options(cls).items():
        if {kind, *get_args(kind)} & {int, float}:
            parameter = inspect.signature(cls.__init__).parameters.get(option)
            yield option, None if parameter is None else parameter.default


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: f"{cls.__module__.split('.')[1]}-{cls.__name__}")
def test_every_number_has_a_range_that_holds_its_default(cls):
    for option, default in numbers(cls):
        allowed = range_of(cls, option)
        assert allowed is not None, option
        for value in default if isinstance(default, tuple) else () if default is None else (default,):
            assert allowed.holds(value), option


@pytest.mark.parametrize(
    ("approach", "option", "right", "wrong"),
    [
        ("EWC", "alpha", [-1, 0.5], [-2, 1.5]),
        ("LwF", "temperature", [1e-3, 100], [1e-300, 0]),
        ("PackNet", "retrain_lr", [0.1], [0, -1.0]),
        ("DyER", "classifier_epochs", [0, 30], [-1, 2_000_000_000]),
    ],
)
def test_numbers_out_of_range_are_refused(approach, option, right, wrong):
    def given(value):
        return {"approach": {"class_path": approach, "init_args": {option: value}}}

    for value in right:
        checker().settings(given(value))
    for value in wrong:
        with pytest.raises(ConfigurationError, match=rf"^approach\.{option} is .*; it must be "):
            checker().settings(given(value))
