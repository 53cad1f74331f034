"""`cl-ac exits`: what the exits of a finished run are worth."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from cl_ac.cli.show import show
from cl_ac.recording.rundir import RunDirectory
from cl_ac.report import exits
from cl_ac.report.exit_timing import timing_table
from cl_ac.report.held_out import correction_tables, held_out_table
from cl_ac.serving.exit_timing import measure
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
    parser.add_argument("--device", type=str, default="auto", help="where to measure: cpu, cuda, cuda:1, …")
    add_trust(parser)
    settings = parse(parser, arguments)

    directory = RunDirectory(Path(settings.run), settings.trust_plugins)
    _ = directory.config
    directory.folder("exits")
    plain = exits.plain_accuracy(RunDirectory(Path(settings.plain))) if settings.plain else None
    analysis = exits.analyse(directory)
    for table in exits.tables(analysis):
        show(table)
    for path in exits.write(analysis, directory, plain):
        print(path)
    if settings.measure:
        measurement = measure(directory, settings.device)
        if measurement.held_out is not None:
            show(held_out_table(measurement.held_out, measurement.stored))
        for table in correction_tables(measurement.correction):
            show(table)
        show(timing_table(measurement))
