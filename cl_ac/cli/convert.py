"""`cl-ac convert`: makes a finished run's transformer compute only what each input needs."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.show import show
from cl_ac.efficiency.convert import Conversion
from cl_ac.efficiency.finetune import SparseTuning
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.recording.progress import phases
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report import conversion_results
from cl_ac.report.router_free import table, write
from cl_ac.serving import conversion, conversion_timing
from cl_ac.serving.router_free import RuleName, sweep
from cl_ac.settings.parser import add_trust, instantiate, parse


def command(arguments: Sequence[str]) -> None:
    """`cl-ac convert`: turns the feed-forward networks of a finished run's transformer into dynamic-k experts."""

    parser = ArgumentParser(
        prog="cl-ac convert",
        description="Turns the feed-forward networks of a finished run's transformer into experts of which each token "
        "runs as many as it needs (D2DMoE). Prints a table; numbers, figures and the model go to convert/ in the run.",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str, help="the run's folder")
    parser.add_class_arguments(conversion.Settings)
    parser.add_class_arguments(SparseTuning, "finetune")
    parser.add_class_arguments(Sparsify, "sparsify")
    parser.add_class_arguments(Conversion, "experts", skip={"gate"})
    parser.set_defaults({"sparsify.loss": "hoyer"})
    parser.add_argument("--measure", action="store_true", help="measure seconds as well")
    parser.add_argument(
        "--router_free",
        type=Literal["none", *get_args(RuleName)],
        default="none",
        help="convert nothing, but zero the activations of the network as it is by this rule, and find the sparsity up "
        "to which it keeps its accuracy; of the other options only the device counts",
    )
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    add_trust(parser)
    settings = parse(parser, arguments)
    directory = RunDirectory(Path(settings.run), settings.trust_plugins)
    _ = directory.config
    directory.folder("convert")
    objects = instantiate(parser, settings)
    console = Console(stderr=True)
    if settings.router_free != "none":
        with phases(console) as progress:
            swept = sweep(directory, settings.router_free, device=settings.device, progress=progress)
        show(table(swept))
        paths = write(swept, directory)
    else:
        chosen = conversion.Settings(**{each.name: objects[each.name] for each in fields(conversion.Settings)})
        given = objects.experts, objects.finetune, objects.sparsify, settings.device
        with phases(console) as progress:
            converted = conversion.convert_run(directory, chosen, *given, progress)
        measured = conversion_timing.measure(converted) if settings.measure else {}
        show(conversion_results.table(converted, measured))
        paths = conversion_results.write(converted, directory, measured)
    for path in paths:
        print(path)
