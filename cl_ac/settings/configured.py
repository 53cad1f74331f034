"""A whole run out of plain settings: what `run.run` takes, and the settings that repeat it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from cl_ac.errors import ConfigurationError
from cl_ac.recording.loggers import LoggerName
from cl_ac.recording.rundir import RunDirectory
from cl_ac.recording.stored_settings import by_bare_name
from cl_ac.settings.defaults import usual_settings
from cl_ac.settings.naming import run_name
from cl_ac.settings.objects import Objects, build
from cl_ac.settings.parser import parse, run_parser

# Of one folder or file, in bytes: what Linux's file systems take.
LONGEST_NAME = 255


@dataclass(frozen=True)
class Configured(Objects):
    """A run that is ready to start: `run(**vars(configured))`.

    Args:
        directory: where the results go.
        device: as in the settings.
        seed: that the objects were initialised from.
        resume: go on after the last finished epoch that `directory` holds.
        loggers: where scalars and figures also go.
        keep_checkpoints: keep the state after every task, not only the newest.
        keep_outputs: keep the outputs after each so many-th task, and after the last; 0 after the last only.
        config: all settings as plain values, from which the run can be repeated, loaded and compared.
    """

    directory: RunDirectory
    device: str
    seed: int
    resume: bool
    loggers: Sequence[LoggerName]
    keep_checkpoints: bool
    keep_outputs: int
    config: Mapping[str, Any]


def configured(options: Mapping[str, Any]) -> Configured:
    """The run that `options` describe.

    Args:
        options: of `cl-ac run` by name, without dashes: `{"approach": "LwF", "approach.strength": 2, "exits": "sdn"}`.
            A settings file comes in as `config`; the others override it. None leaves an option out.
    Raises:
        UserError: one sentence that names the option, its value and what is allowed.
    """
    options = dict(options)
    resume = options.pop("resume", False)
    parser = run_parser()
    return from_settings(parser, parse(parser, [*as_arguments(options), *(["--resume"] if resume else [])]))


def from_settings(parser: ArgumentParser, settings: Namespace) -> Configured:
    """The run that `settings`, as `parser` gave them, describe."""
    settings.pop("config", None)
    stored = by_bare_name(yaml.safe_load(parser.dump(settings, skip_unset=False)))
    path = folder(settings.out, settings.name or "")
    objects = build(parser, settings)
    if not settings.name:
        path = path / run_name(stored, len(objects.benchmark))
    return Configured(
        **vars(objects),
        directory=RunDirectory(path, usual=usual_settings(stored)),
        device=settings.device,
        seed=settings.seed,
        resume=settings.resume,
        loggers=settings.loggers,
        keep_checkpoints=settings.keep_checkpoints,
        keep_outputs=settings.keep_outputs,
        config=stored,
    )


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options by name as a command line, a settings file first, and each class before the options of that class."""
    ordered = sorted(options.items(), key=lambda item: (item[0] != "config", item[0].count(".")))
    return [
        f"--{name}={value if isinstance(value, str | Path) else json.dumps(value)}"
        for name, value in ordered
        if value is not None
    ]


def folder(out: str, name: str) -> Path:
    """The folder of a run; `~` is the home folder.

    Raises:
        ConfigurationError: if no folder can have that name.
    """
    try:
        path = Path(out).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"out is '{out}', but {str(error).lower()}") from error
    if long := [part for part in (path / name).parts if len(part.encode()) > LONGEST_NAME]:
        raise ConfigurationError(
            f"'{long[0][:40]}…' (--out and --name) has {len(long[0].encode())} bytes; "
            f"names of folders have at most {LONGEST_NAME}"
        )
    return path / name
