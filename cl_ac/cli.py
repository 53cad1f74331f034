"""The command line. Parsing only; every option of a run is a typed constructor argument."""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from cl_ac.errors import ConfigurationError, UserError, unknown
from cl_ac.rundir import RunDirectory
from cl_ac.settings import Objects, build, parse, run_parser

USAGE = """usage: cl-ac COMMAND [options]

  run       train an approach on a benchmark
  study     run every combination of some settings, and tabulate means over seeds
  report    compare finished runs
  exits     what the exits of a finished run are worth

`cl-ac COMMAND --help` lists all options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, or 2 for a mistake of the user."""
    # A plugin in the user's folder is found as it would be by `python script.py`.
    sys.path.insert(0, "")
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    commands = {"run": run_command, "study": study_command, "report": report_command, "exits": exits_command}
    try:
        if name in ("-h", "--help"):
            print(USAGE)
        elif name in commands:
            commands[name](rest)
        else:
            raise ConfigurationError(unknown("command", name, commands))
    except UserError as error:
        print(f"cl-ac: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cl-ac: interrupted; repeat the command with --resume to go on", file=sys.stderr)
        return 130
    return 0


def run_command(arguments: Sequence[str]) -> None:
    """`cl-ac run`: parses, builds what the settings describe, and runs it."""
    parser = run_parser()
    settings = parse(parser, arguments)
    settings.pop("config", None)
    plain = yaml.safe_load(parser.dump(settings, skip_unset=False))
    objects = build(parser, settings)

    from cl_ac.report.tables import summary_table
    from cl_ac.run import run

    directory = RunDirectory(Path(settings.out) / (settings.name or run_name(objects, settings.seed)))
    run(
        **vars(objects),
        directory=directory,
        device=settings.device,
        seed=settings.seed,
        resume=settings.resume,
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


def study_command(arguments: Sequence[str]) -> None:
    """`cl-ac study`: runs a grid of settings and tabulates it."""
    parser = ArgumentParser(prog="cl-ac study", description="Runs a grid of settings.", exit_on_error=False)
    parser.add_argument("study", type=str, help="YAML file with 'config', 'grid' and perhaps 'set'")
    parser.add_argument("--out", type=str, default="runs/study", help="the folder of the runs; finished ones are kept")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--results", type=str | None, default=None, help="write the table to this JSON file")
    settings = parse(parser, arguments)

    from cl_ac import study as studies

    study, console = studies.Study.read(settings.study), Console(stderr=True)
    if settings.workers < 1:
        raise ConfigurationError(f"--workers is {settings.workers}; it must be at least 1")
    finished = studies.run_all(study, Path(settings.out), settings.workers, console)
    results = studies.rows(study, finished)
    show(studies.table(study, results))
    if settings.results:
        studies.write_results(Path(settings.results), study, results)
    if missing := sum(1 for _ in study.cells()) - len(finished):
        raise UserError(f"{missing} runs failed; the table is without them")


def report_command(arguments: Sequence[str]) -> None:
    """`cl-ac report`: compares finished runs in a table and in figures."""
    parser = ArgumentParser(prog="cl-ac report", description="Compares finished runs.", exit_on_error=False)
    parser.add_argument("runs", type=str, nargs="+", help="run folders")
    parser.add_argument("--figures", type=str | None, default=None, help="write figures to this folder")
    settings = parse(parser, arguments)

    from cl_ac.report.figures import write_figures
    from cl_ac.report.tables import summary_table

    directories = [RunDirectory(Path(path)) for path in settings.runs]
    for directory in directories:
        _ = directory.config
    show(summary_table(directories))
    if settings.figures:
        for path in write_figures(directories, Path(settings.figures)):
            print(path)


def exits_command(arguments: Sequence[str]) -> None:
    """`cl-ac exits`: tables, figures and TensorBoard entries of a finished run's exits."""
    parser = ArgumentParser(
        prog="cl-ac exits", description="Analyses the exits of a finished run.", exit_on_error=False
    )
    parser.add_argument("run", type=str, help="the run's folder; figures and numbers go to exits/ in it")
    parser.add_argument("--plain", type=str | None, default=None, help="the folder of a run without ACs, for a line")
    parser.add_argument("--measure", action="store_true", help="run the early exits and measure their time as well")
    parser.add_argument("--device", type=str, default="auto", help="where to measure: cpu, cuda, cuda:1, …")
    settings = parse(parser, arguments)

    from cl_ac.report import exits

    directory = RunDirectory(Path(settings.run))
    _ = directory.config
    plain = exits.plain_accuracy(RunDirectory(Path(settings.plain))) if settings.plain else None
    analysis = exits.analyse(directory)
    for table in exits.tables(analysis):
        show(table)
    for path in exits.write(analysis, directory, plain):
        print(path)
    if settings.measure:
        from cl_ac.report.exit_timing import measure, timing_table
        from cl_ac.report.held_out import held_out_table

        measurement = measure(directory, settings.device)
        if measurement.held_out is not None:
            show(held_out_table(measurement.held_out, measurement.stored))
        show(timing_table(measurement))


def show(table: Table) -> None:
    """Prints a table, as wide as it needs where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
