"""The settings of a run: which of them may change while it goes on, and what they are recognised by."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# A run may go on with other values of these: they decide where and how fast it runs, not what it computes.
FREE_SETTINGS = (
    *("resume", "out", "name", "device", "devices", "loggers", "training.workers", "keep_checkpoints", "keep_outputs"),
    *(f"training.frozen_outputs.{name}" for name in ("keep", "memory", "folder")),
)
# These say which tasks follow: a run may go on with others of them if the tasks that it has learned stay the same.
SPLITTING = tuple(f"benchmark.init_args.{name}" for name in ("tasks", "first_task", "classes_per_task"))


def epochs_until(flat: Mapping[str, Any], tasks: int) -> list[Any]:
    """The epochs of the first tasks, by settings on one level: a list has one number for each, a number is of all."""
    epochs = flat.get("training.epochs")
    return epochs[:tasks] if isinstance(epochs, list) else [epochs] * tasks


def settings_digest(config: Mapping[str, Any]) -> str:
    """What a run's settings are recognised by, those aside that may change while it goes on."""
    fixed = {key: value for key, value in flatten(config).items() if key not in {*FREE_SETTINGS, *SPLITTING}}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()[:16]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
