"""A study: every combination of some settings."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cl_ac.errors import ConfigurationError
from cl_ac.settings.configured import LONGEST_NAME, as_arguments
from cl_ac.settings.parser import parse, run_parser
from cl_ac.settings.plugins import shown
from cl_ac.settings.reading import read


@dataclass(frozen=True)
class Study:
    """What is varied.

    Args:
        config: the settings file that all runs start from.
        grids: the values of each setting that is varied, for each part of the study; `null` leaves a setting out.
        set: settings that all runs share, on top of the file's.
    """

    config: str
    grids: list[dict[str, list[Any]]]
    set: dict[str, Any]

    @staticmethod
    def read(path: str) -> "Study":
        """The study described in a YAML file.

        Raises:
            ConfigurationError: if the file is missing or does not describe one.
        """
        config, grids, shared = parts(path, "study")
        if not all(map(_is_grid, grids)):
            raise ConfigurationError(
                f"the study '{path}' needs 'config', a settings file, and 'grid', lists of values or several such grids"
            )
        return Study(config, grids, shared)

    @property
    def varied(self) -> list[str]:
        """The settings that are varied, the seed aside."""
        return [name for name in dict.fromkeys(itertools.chain(*self.grids)) if name != "seed"]

    @property
    def names_devices(self) -> bool:
        """Whether the settings say where runs compute, `auto` aside."""
        try:
            content = read(self.config)
        except ConfigurationError:
            content = {}  # its runs complain of the file
        shared = {**content, **self.set}
        return shared.get("device", "auto") != "auto" or any("device" in grid for grid in self.grids)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every combination of each grid, once."""
        seen = set()
        for grid in self.grids:
            for values in itertools.product(*grid.values()):
                cell = dict(zip(grid, values, strict=True))
                if (name := run_name(cell)) not in seen:
                    seen.add(name)
                    yield cell

    def check(self) -> None:
        """Looks at the settings of the first run of each grid, so that a wrong name in all runs is told before any.

        Raises:
            ConfigurationError: if they are wrong.
        """
        for grid in self.grids:
            parse(run_parser(), self.arguments({name: values[0] for name, values in grid.items()}))

    def arguments(self, cell: Mapping[str, Any]) -> list[str]:
        """The command line of one run."""
        return as_arguments({"config": self.config, **self.set, **cell})


def parts(path: str, kind: str) -> tuple[str, list[Any], dict[str, Any]]:
    """What stands under 'config', 'grid' and 'set' in a YAML file; the grids as a list, and what is in them unseen.

    Args:
        kind: of what it describes, `study` or `search`.
    Raises:
        ConfigurationError: if the file is missing, or has other parts.
    """
    content = read(path, f"a {kind}")
    grids = content.get("grid")
    if not isinstance(content.get("config"), str) or not grids:
        values = "lists of values or several such grids" if kind == "study" else "ranges and lists of values"
        raise ConfigurationError(f"the {kind} '{path}' needs 'config', a settings file, and 'grid', {values}")
    if extra := content.keys() - {"config", "grid", "set"}:
        raise ConfigurationError(
            f"the {kind} '{path}' has unknown keys {sorted(map(str, extra))}; known: config, grid, set"
        )
    shared = content.get("set") or {}
    if not isinstance(shared, dict) or not all(isinstance(name, str) for name in shared):
        raise ConfigurationError(f"'set' in the {kind} '{path}' is {shown(shared)}; expected options and values")
    return content["config"], grids if isinstance(grids, list) else [grids], shared


def _is_grid(grid: Any) -> bool:
    return (
        isinstance(grid, dict)
        and bool(grid)
        and all(isinstance(name, str) and isinstance(values, list) and values for name, values in grid.items())
    )


def run_name(cell: Mapping[str, Any]) -> str:
    """A folder name for one combination: its settings, or what fits of them and a digest of all."""
    name = "_".join(f"{name}={value}" for name, value in cell.items() if value is not None).replace("/", "-")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = "_" + hashlib.sha256(name.encode()).hexdigest()[:12]
    return name.encode()[: LONGEST_NAME - len(digest)].decode(errors="ignore") + digest
