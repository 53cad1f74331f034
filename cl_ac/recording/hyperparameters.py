"""A run's settings as one level of names and plain values, for tables and trackers."""

from collections.abc import Mapping
from typing import Any

from cl_ac.recording.same_run import FREE_SETTINGS
from cl_ac.recording.stored_settings import flatten

Value = str | int | float | bool


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Value]:
    """What decides the numbers of a run, under the names that the command line uses.

    Classes go by their names (`approach: LwF`), their options by `approach.strength`; lists become text. Settings
    that are not given have no entry, but for `exits` and `classifier`, which say what stands in their place. Data that
    can be downloaded are the same wherever they lie.

    Args:
        config: the content of config.yaml.
    """
    flat = flatten({**config, "classifier": config.get("classifier") or "linear"})
    left_out = {*FREE_SETTINGS, "exits", "exits.at"}
    if "benchmark.init_args.download" in flat:
        left_out |= {"benchmark.init_args.download", "benchmark.init_args.root"}
    found: dict[str, Value] = {"exits": exits_text(config.get("exits"))}
    for name, value in flat.items():
        if value is None or name in left_out or name.endswith(".init_args"):
            continue
        short = name.replace(".init_args", "").removesuffix(".class_path")
        if name.endswith(".class_path"):
            value = value.rsplit(".", 1)[-1]
        found[short] = value if isinstance(value, str | int | float | bool) else str(value)
    return found


def exits_text(exits: str | Mapping[str, Any] | None) -> str:
    """A few words for the setting `exits`: `none`, the name of a preset, or the stages at which ACs hang."""
    if not exits:
        return "none"
    if isinstance(exits, str):
        return exits
    at = exits.get("at") or []
    return f"at {' '.join(map(str, at))}" if at else "none"
