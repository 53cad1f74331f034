"""`cl-ac exits`: what the exits of a finished run are worth."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from cl_ac.cli.show import show
from cl_ac.recording.progress import phases
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report import exits
from cl_ac.report.exit_timing import timing_table, write
from cl_ac.report.held_out import correction_tables, fitted_rules, held_out_table
from cl_ac.serving.exit_timing import IMAGES, measure
from cl_ac.settings.parser import add_trust, parse


def command(arguments: Sequence[str]) -> None:
    """`cl-ac exits`: tables, figures and TensorBoard entries of a finished run's exits."""
    parser = ArgumentParser(
        prog="cl-ac exits", description="Analyses the exits of a finished run.", exit_on_error=False
    )
    parser.add_argument("run", type=str, help="the run's folder; figures and numbers go to exits/ in it")
    parser.add_argument("--plain", type=str | None, default=None, help="the folder of a run without ACs, for a line")
    parser.add_argument(
        "--measure", action="store_true", help="run the network as well: time of early exits, fitted thresholds, TLC"
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, help="with --measure: run at most so many images, for slow networks"
    )
    parser.add_argument("--all", action="store_true", help="print all tables, not only those that fit on a screen")
    parser.add_argument("--device", type=str, default="auto", help="where to measure: cpu, cuda, cuda:1, …")
    add_trust(parser)
    settings = parse(parser, arguments)

    directory = RunDirectory(Path(settings.run), settings.trust_plugins)
    _ = directory.config
    directory.folder("exits")
    plain = exits.plain_accuracy(RunDirectory(Path(settings.plain))) if settings.plain else None
    analysis = exits.analyse(directory)
    if len(analysis.outputs.logits) == 1:
        print(exits.sentence_of_one_exit(analysis))
        return
    for table in exits.main_tables(analysis):
        show(table)
    for table in exits.further_tables(analysis) if settings.all else ():
        show(table)
    paths = exits.write(analysis, directory, plain)
    if settings.measure:
        with phases(Console(stderr=True)) as progress:
            measurement = measure(directory, settings.device, images=settings.images, progress=progress)
        held_out = measurement.held_out
        fitted = {} if held_out is None else fitted_rules(held_out, measurement.stored)
        if fitted:
            show(held_out_table(fitted))
        for table in correction_tables(measurement.correction, held_out):
            show(table)
        show(timing_table(measurement))
        paths.append(write(measurement, fitted, directory))
    print(f"figures and all numbers, in {paths[0].parent}: {', '.join(path.name for path in paths)}")
    if missing := exits.sentence_of_missing(directory):
        print(missing)
    if not settings.all:
        print("`--all` prints the tables after each task, by task and by age of the class as well")
