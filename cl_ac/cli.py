"""The command line. Parsing only; every option of a run is a typed constructor argument."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args

import yaml
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from cl_ac.errors import ConfigurationError, UserError, unknown
from cl_ac.network import Exits
from cl_ac.rundir import RunDirectory, runs_in
from cl_ac.settings import Objects, build, instantiate, parse, run_parser

USAGE = """usage: cl-ac COMMAND [options]

  run       train an approach on a benchmark
  study     run every combination of some settings, and tabulate means over seeds
  report    compare finished runs
  exits     what the exits of a finished run are worth
  attach    train auxiliary classifiers on the frozen network of a finished run
  convert   make a finished run's transformer compute only what each input needs

`cl-ac COMMAND --help` lists all options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, or 2 for a mistake of the user."""
    # A plugin in the user's folder is found as it would be by `python script.py`.
    sys.path.insert(0, "")
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    commands = {
        "run": run_command,
        "study": study_command,
        "report": report_command,
        "exits": exits_command,
        "attach": attach_command,
        "convert": convert_command,
    }
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
    """`cl-ac report`: compares finished runs in a table, on a page, and in files."""
    parser = ArgumentParser(
        prog="cl-ac report",
        description="Compares runs: prints a table, and writes report.html (one page that needs no network), figures/ "
        "(SVG, PNG, PDF) and tables/ (CSV, Markdown, LaTeX). Runs that differ in their seed alone are averaged.",
        exit_on_error=False,
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, or folders of them")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the folder to write; absent means 'report' inside a single run, or beside the first of several",
    )
    settings = parse(parser, arguments)

    from cl_ac.report.page import write_report
    from cl_ac.report.tables import summary_table

    directories = [directory for path in settings.runs for directory in runs_in(Path(path))]
    if not directories:
        raise ConfigurationError(f"{', '.join(settings.runs)} holds a report and no run")
    first = directories[0].path
    folder = Path(settings.out) if settings.out else (first if len(directories) == 1 else first.parent) / "report"
    if finished := [directory for directory in directories if directory.records]:
        show(summary_table(finished))
    print(write_report(directories, folder))


def exits_command(arguments: Sequence[str]) -> None:
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
        from cl_ac.report.held_out import correction_tables, held_out_table

        measurement = measure(directory, settings.device)
        if measurement.held_out is not None:
            show(held_out_table(measurement.held_out, measurement.stored))
        for table in correction_tables(measurement.correction):
            show(table)
        show(timing_table(measurement))


def attach_command(arguments: Sequence[str]) -> None:
    """`cl-ac attach`: trains ACs on the frozen network of a finished run."""
    from cl_ac.attach import Attachment, attach
    from cl_ac.report.tables import summary_table

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
    settings = parse(parser, arguments)
    source = RunDirectory(Path(settings.run))
    _ = source.config
    exits, attachment = settings.exits, Attachment(**{each.name: settings[each.name] for each in fields(Attachment)})
    exits = exits if isinstance(exits, str) else Exits(**exits.as_dict())
    placement = exits if isinstance(exits, str) else f"{len(exits.at)}exits"
    out = Path(settings.out) if settings.out else source.path.parent
    directory = RunDirectory(out / (settings.name or f"{source.name}_attached_{placement}"))
    attach(source, directory, exits, attachment, settings.device)
    show(summary_table([directory]))
    print(directory.path)


def convert_command(arguments: Sequence[str]) -> None:
    """`cl-ac convert`: turns the feed-forward networks of a finished run's transformer into dynamic-k experts."""
    from cl_ac.efficiency.convert import Conversion
    from cl_ac.efficiency.finetune import FineTuning
    from cl_ac.efficiency.sparsify import Sparsify
    from cl_ac.progress import phases
    from cl_ac.report import conversion, conversion_results, conversion_timing, router_free

    parser = ArgumentParser(
        prog="cl-ac convert",
        description="Turns the feed-forward networks of a finished run's transformer into experts of which each token "
        "runs as many as it needs (D2DMoE). Prints a table; numbers, figures and the model go to convert/ in the run.",
        exit_on_error=False,
    )
    parser.add_argument("run", type=str, help="the run's folder")
    parser.add_class_arguments(conversion.Settings)
    parser.add_class_arguments(FineTuning, "finetune")
    parser.add_class_arguments(Sparsify, "sparsify")
    parser.add_class_arguments(Conversion, "experts", skip={"gate"})
    parser.set_defaults({"sparsify.loss": "hoyer"})
    parser.add_argument("--measure", action="store_true", help="measure seconds as well")
    parser.add_argument(
        "--router_free",
        type=Literal["none", *get_args(router_free.RuleName)],
        default="none",
        help="convert nothing, but zero the activations of the network as it is by this rule, and find the sparsity up "
        "to which it keeps its accuracy; of the other options only the device counts",
    )
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    settings = parse(parser, arguments)
    directory = RunDirectory(Path(settings.run))
    _ = directory.config
    objects = instantiate(parser, settings)
    console = Console(stderr=True)
    if settings.router_free != "none":
        with phases(console) as progress:
            swept = router_free.sweep(directory, settings.router_free, device=settings.device, progress=progress)
        show(router_free.table(swept))
        paths = router_free.write(swept, directory)
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


def show(table: Table) -> None:
    """Prints a table, as wide as it needs where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
