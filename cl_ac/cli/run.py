"""`cl-ac run`: trains an approach on a benchmark."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from cl_ac.cli.show import show
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report.tables import summary_table
from cl_ac.run import run
from cl_ac.settings.objects import Objects, build
from cl_ac.settings.parser import parse, run_parser


def command(arguments: Sequence[str]) -> None:
    """`cl-ac run`: parses, builds what the settings describe, and runs it."""
    parser = run_parser()
    settings = parse(parser, arguments)
    settings.pop("config", None)
    plain = yaml.safe_load(parser.dump(settings, skip_unset=False))
    objects = build(parser, settings)

    directory = RunDirectory(Path(settings.out) / (settings.name or run_name(objects, settings.seed)))
    run(
        **vars(objects),
        directory=directory,
        device=settings.device,
        seed=settings.seed,
        resume=settings.resume,
        loggers=settings.loggers,
        config=plain,
    )
    show(summary_table([directory]))
    print(f"results and TensorBoard events: {directory.path}")


def run_name(objects: Objects, seed: int) -> str:
    """A folder name that tells runs with other approaches, exits or seeds apart."""
    exits = objects.exits
    placement = f"_{exits}" if isinstance(exits, str) else f"_{len(exits.at)}exits" if exits.at else ""
    benchmark = f"{type(objects.benchmark).__name__}{len(objects.benchmark)}"
    return f"{benchmark}_{type(objects.approach).__name__}{placement}_seed{seed}"
