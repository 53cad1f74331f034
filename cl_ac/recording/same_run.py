"""Whether settings are those of the same run: which may change while it goes on, and what it is recognised by."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_ac.recording.stored_settings import flatten

# A run may go on with other values of these: they decide where and how fast it runs, not what it computes.
FREE_SETTINGS = (
    *("resume", "out", "name", "device", "devices", "loggers", "training.workers", "keep_checkpoints", "keep_outputs"),
    *(f"training.frozen_outputs.{name}" for name in ("keep", "memory", "folder")),
)
# These say which tasks follow: a run may go on with others of them if the tasks that it has learned stay the same.
SPLITTING = tuple(f"benchmark.init_args.{name}" for name in ("tasks", "first_task", "classes_per_task"))


def changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], usual: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What differs, by dotted name: the value that it had and the one that it has, those of `FREE_SETTINGS` aside.

    Args:
        usual: the default of each option, by dotted name. What an earlier version stored lacks options that are new,
            and was made as these defaults say.
    """
    had, has = flatten(before), flatten(now)
    had = {**{name: usual[name] for name in has.keys() - had.keys() if name in usual}, **had}
    return {
        name: (had.get(name), has.get(name))
        for name in sorted({*had, *has})
        if had.get(name) != has.get(name) and name not in FREE_SETTINGS
    }


def other_settings(path: Path, changed: Mapping[str, tuple[Any, Any]]) -> str:
    """What there is to say of a run that does not go on, since its settings differ by what has `changed`."""
    told = "; ".join(
        f"{name.replace('.init_args.', '.')} was {_plain(had)} and is {_plain(has)}"
        for name, (had, has) in changed.items()
    )
    return f"'{path}' holds a run with other settings: {told}; give the former, or another --name or --out"


def may_change(before: Mapping[str, Any], now: Mapping[str, Any], tasks: int) -> set[str]:
    """The settings of which a run that has learned so many tasks may go on with others, if its data stay the same."""
    had, has = (settings.get("training", {}).get("epochs") for settings in (before, now))
    same_so_far = _of_first(had, tasks) == _of_first(has, tasks)
    return {*SPLITTING, *(["training.epochs"] if same_so_far else [])}


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _of_first(epochs: Any, tasks: int) -> list[Any]:
    """The epochs of the first tasks: a list has one number for each, a number is of all."""
    return epochs[:tasks] if isinstance(epochs, list) else [epochs] * tasks


def settings_digest(config: Mapping[str, Any]) -> str:
    """What a run's settings are recognised by, those aside that may change while it goes on."""
    fixed = {key: value for key, value in flatten(config).items() if key not in {*FREE_SETTINGS, *SPLITTING}}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:16]
