"""`cl-ac attach`: trains auxiliary classifiers on the frozen network of a finished run."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from cl_ac.cli.show import show
from cl_ac.network import Exits
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.tables import summary_table
from cl_ac.serving.attach import Attachment, attach
from cl_ac.settings.parser import add_trust, parse


def command(arguments: Sequence[str]) -> None:
    """`cl-ac attach`: trains ACs on the frozen network of a finished run."""

    parser = ArgumentParser(
        prog="cl-ac attach",
        description="Trains fresh auxiliary classifiers on the frozen network of a finished run, and leaves a run "
        "folder of its own for `cl-ac exits` and `cl-ac report`.",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str, help="the finished run's folder")
    parser.add_argument(
        "--exits", type=str | Exits, required=True, help="where ACs hang: a preset of the backbone, or at/weights"
    )
    parser.add_class_arguments(Attachment)
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    parser.add_argument("--out", type=str | None, default=None, help="the folder in which the new folder is made")
    parser.add_argument("--name", type=str | None, default=None, help="the new folder; made of the settings if absent")
    add_trust(parser)
    settings = parse(parser, arguments)
    source = RunDirectory(Path(settings.run), settings.trust_plugins)
    _ = source.config
    exits, attachment = settings.exits, Attachment(**{each.name: settings[each.name] for each in fields(Attachment)})
    exits = exits if isinstance(exits, str) else Exits(**exits.as_dict())
    placement = exits if isinstance(exits, str) else f"{len(exits.at)}exits"
    out = Path(settings.out) if settings.out else source.path.parent
    directory = RunDirectory(out / (settings.name or f"{source.name}_attached_{placement}"))
    attach(source, directory, exits, attachment, settings.device)
    show(summary_table([directory]))
    print(directory.path)
