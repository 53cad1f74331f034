"""Going on from a finished task of one run in another, with other settings."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cl_ac.recording.checkpoint import Checkpoint
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.same_run import settings_digest
from cl_ac.recording.stored_settings import by_bare_name


def branch(source: RunDirectory, target: RunDirectory, config: Mapping[str, Any]) -> None:
    """Begins the run of `config` in `target` with what the finished run in `source` has learned.

    It goes on by `resume`, with the tasks of `config` that follow. What networks, approaches and memories are made of
    must be the same in both. Where `target` holds results already, nothing happens.

    Raises:
        ResumeError: if the checkpoint of `source` cannot be read.
    """
    if target.has_results:
        return
    # The checkpoint comes last, and of the events, the data and the settings the new run keeps its own.
    left = shutil.ignore_patterns("checkpoint*", "events.*", "data.json", "config.yaml", "lock", "metrics.jsonl", ".*")
    shutil.copytree(source.path, target.path, ignore=left, dirs_exist_ok=True)
    checkpoint = replace(Checkpoint.load(source.checkpoint_path), run=settings_digest(by_bare_name(config)))
    checkpoint.save(target.checkpoint_path)
    target.record_file.write(source.records)
