"""A search: the same file as a study's, with ranges of numbers beside lists of values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cl_ac.errors import ConfigurationError
from cl_ac.settings.plugins import shown
from cl_ac.studies.study import parts

Value = str | int | float | bool | None
EXAMPLE = "{low: 0.1, high: 10, log: true}"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones if both are; `log` draws their logarithms evenly."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class Search:
    """What is searched.

    Args:
        config: the settings file that all runs start from.
        space: a range or the values of each setting that is chosen; `null` leaves a setting out.
        seeds: of the runs of each choice, which is judged by their mean.
        set: settings that all runs share, on top of the file's.
    """

    config: str
    space: dict[str, Range | list[Value]]
    seeds: list[int]
    set: dict[str, Any]

    @staticmethod
    def read(path: str) -> "Search":
        """The search described in a YAML file.

        Raises:
            ConfigurationError: if the file is missing or does not describe one.
        """
        config, grids, shared = parts(path, "search")
        if len(grids) != 1 or not isinstance(grids[0], dict):
            raise ConfigurationError(f"the search '{path}' needs one 'grid' of ranges and lists of values")
        grid = dict(grids[0])
        seeds = grid.pop("seed", [shared.get("seed", 0)])
        if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
            raise ConfigurationError(
                f"seed in the search '{path}' is {shown(seeds)}; expected a list of seeds, over which is averaged"
            )
        space = {str(name): _choices(str(name), values) for name, values in grid.items()}
        if all(isinstance(values, list) and len(values) == 1 for values in space.values()):
            raise ConfigurationError(
                f"the search '{path}' has nothing to choose: give a range such as {EXAMPLE}, or "
                "a list of several values"
            )
        return Search(config, space, seeds, shared)

    def options(self, chosen: Mapping[str, Value], seed: int) -> dict[str, Any]:
        """The options of `cl-ac run` for one choice."""
        return {"config": self.config, **self.set, **chosen, "seed": seed}

    @property
    def probes(self) -> list[dict[str, Value]]:
        """A choice for each end of a range and each value of a list, the other settings at their first."""
        ends = {name: [v.low, v.high] if isinstance(v, Range) else v for name, v in self.space.items()}
        first = {name: values[0] for name, values in ends.items()}
        others = [{**first, name: value} for name, values in ends.items() for value in values[1:]]
        return [first, *others]


def _choices(name: str, values: Any) -> Range | list[Value]:
    """What may be chosen for the setting `name`.

    Raises:
        ConfigurationError: if it is neither a range nor a list of plain values.
    """
    if isinstance(values, dict):
        return _range(name, values)
    if not isinstance(values, list) or not values:
        raise ConfigurationError(f"{name} is {shown(values)}; expected a range such as {EXAMPLE}, or a list of values")
    for value in values:
        if value is not None and not isinstance(value, str | int | float | bool):
            raise ConfigurationError(f"{name} has {shown(value)} among its values; expected numbers, words or null")
    if len(values) != len({(type(value), value) for value in values}):
        raise ConfigurationError(f"{name} lists a value twice: {shown(values)}")
    return list(values)


def _range(name: str, given: Mapping[Any, Any]) -> Range:
    low: Any = given.get("low")
    high: Any = given.get("high")
    log: Any = given.get("log", False)
    if given.keys() - {"low", "high", "log"} or not (_is_number(low) and _is_number(high)) or not isinstance(log, bool):
        raise ConfigurationError(f"{name} is {shown(given)}; expected a range such as {EXAMPLE}")
    if low >= high:
        raise ConfigurationError(f"{name} goes from {low} to {high}; 'low' must be below 'high'")
    if log and low <= 0:
        raise ConfigurationError(f"{name} begins at {low}; with 'log: true' it must begin above 0")
    return Range(low, high, log)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
