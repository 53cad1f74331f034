"""Names for runs: what was chosen, readably, and a short digest of all else that differs from the defaults."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from cl_ac.recording.same_run import FREE_SETTINGS
from cl_ac.recording.stored_settings import flatten
from cl_ac.settings.defaults import usual_settings
from cl_ac.settings.parser import PLUGINS

# Said by other parts of the name, or about where the data are.
LEFT_OUT = {*FREE_SETTINGS, "seed", "exits", "benchmark.tasks", "benchmark.root", "benchmark.download"}
LONGEST = 80


def run_name(settings: Mapping[str, Any], tasks: int) -> str:
    """A folder name that tells runs with other settings apart.

    Args:
        settings: of the run, as its config.yaml has them.
        tasks: number of the benchmark's tasks.
    """
    exits = settings.get("exits")
    placement = exits if isinstance(exits, str) else f"{len(exits['at'])}exits" if exits and exits["at"] else ""
    changed = changes(settings)
    factory = str(changed.pop("benchmark.factory", "")).rpartition(".")[2]
    benchmark = f"{factory or class_name(settings['benchmark'])}{tasks}"
    chosen = [name for name in changed if name.startswith("approach.")]
    readable = "_".join(f"{name.rpartition('.')[2]}{changed[name]}" for name in chosen)
    if len(readable) <= LONGEST:
        changed = {name: value for name, value in changed.items() if name not in chosen}
    else:
        readable = ""
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6] if changed else ""
    classifier, stream = (class_name(settings[kind]) if settings.get(kind) else "" for kind in ("classifier", "stream"))
    classes = class_name(settings["backbone"]), class_name(settings["approach"])
    parts = (benchmark, stream, *classes, readable, placement, classifier, digest, f"seed{settings['seed']}")
    return "_".join(re.sub(r"[^\w.+-]", "-", part) for part in parts if part)


def class_name(part: Mapping[str, Any]) -> str:
    """The bare name of a plugin's class."""
    return part["class_path"].rpartition(".")[2]


def changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from their defaults, by dotted name, those of `LEFT_OUT` aside."""
    # Of exits, all that is given is told: the stages at which ACs hang have no default.
    usual = {name: value for name, value in usual_settings(settings).items() if not name.startswith("exits.")}
    classes = {f"{kind}.{what}" for kind in PLUGINS for what in ("class_path", "init_args")}
    differ = {
        name.replace(".init_args", "", 1) if name.partition(".")[0] in PLUGINS else name: value
        for name, value in flatten(settings).items()
        if name not in classes and value != usual.get(name)
    }
    return {name: value for name, value in differ.items() if name not in LEFT_OUT}
