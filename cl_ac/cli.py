"""The command line. Parsing only; every option of a run is a typed constructor argument."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from cl_ac.approach import Approach
from cl_ac.benchmark import Benchmark
from cl_ac.classifiers import Classifier
from cl_ac.cli_errors import sentence
from cl_ac.errors import ConfigurationError, UserError, unknown
from cl_ac.memory import Memory
from cl_ac.network import NO_EXITS, Backbone, Exits
from cl_ac.plugins import classes, find
from cl_ac.presets import with_tuned_values
from cl_ac.rundir import RunDirectory
from cl_ac.seeding import global_stream
from cl_ac.training import Training

PLUGINS: dict[str, type] = {
    "approach": Approach,
    "benchmark": Benchmark,
    "backbone": Backbone,
    "classifier": Classifier,
}

USAGE = """usage: cl-ac COMMAND [options]

  run       train an approach on a benchmark
  study     run every combination of some settings, and tabulate means over seeds
  report    compare finished runs

`cl-ac COMMAND --help` lists all options."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, or 2 for a mistake of the user."""
    # A plugin in the user's folder is found as it would be by `python script.py`.
    sys.path.insert(0, "")
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    commands = {"run": run_command, "study": study_command, "report": report_command}
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


def run_parser() -> ArgumentParser:
    """All options of `cl-ac run`, read from the constructors' signatures."""
    parser = ArgumentParser(prog="cl-ac run", description="Trains an approach on a benchmark.", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; what comes later overrides it")
    helps = {
        "approach": "the continual-learning method",
        "benchmark": "the data and how their classes are split into tasks",
        "backbone": "the network without its classifiers",
        "classifier": "what answers at inference instead of the linear heads",
    }
    for kind, base in PLUGINS.items():
        names = ", ".join(classes(kind, base))
        text = f"{helps[kind]}: {names}, or a dotted path such as my_file.MyClass"
        parser.add_subclass_arguments(base, kind, skip={"image_shape"}, required=kind != "classifier", help=text)
    parser.add_argument(
        "--exits", type=str | Exits | None, default=None, help="where ACs hang: a preset of the backbone, or at/weights"
    )
    parser.add_class_arguments(Training, "training")
    parser.add_class_arguments(Memory, "memory")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    parser.add_argument("--seed", type=int, default=0, help="of every random stream")
    parser.add_argument("--out", type=str, default="runs", help="the folder in which the run's folder is made")
    parser.add_argument(
        "--name", type=str | None, default=None, help="the run's folder; made of the settings if absent"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The settings in `arguments`.

    Raises:
        ConfigurationError: one sentence that names the setting, its value and what is allowed.
    """
    known = {kind: classes(kind, base) for kind, base in PLUGINS.items()}
    try:
        return parser.parse_args(with_tuned_values(list(arguments)))
    except ArgumentError as error:
        raise ConfigurationError(sentence(error, parser, known)) from error


def run_command(arguments: Sequence[str]) -> None:
    """`cl-ac run`: parses, builds what the settings describe, and runs it."""
    parser = run_parser()
    settings = parse(parser, arguments)
    settings.pop("config", None)
    plain = yaml.safe_load(parser.dump(settings, skip_unset=False))
    backbone_settings, exits = settings.pop("backbone"), settings.pop("exits")
    exits = Exits(**exits.as_dict()) if isinstance(exits, Namespace) else exits
    with global_stream(settings.seed, "approach"):
        objects = instantiate(parser, settings)
    with global_stream(settings.seed, "backbone"):
        backbone = build_backbone(backbone_settings, objects.benchmark)

    from cl_ac.report.tables import summary_table
    from cl_ac.run import run

    directory = RunDirectory(Path(settings.out) / (settings.name or run_name(objects, exits)))
    run(
        approach=objects.approach,
        benchmark=objects.benchmark,
        backbone=backbone,
        directory=directory,
        exits=NO_EXITS if exits is None else exits,
        training=objects.training,
        memory=objects.memory,
        classifier=objects.get("classifier"),
        device=settings.device,
        seed=settings.seed,
        resume=settings.resume,
        config=plain,
    )
    show(summary_table([directory]))
    print(f"results and TensorBoard events: {directory.path}")


def instantiate(parser: ArgumentParser, settings: Namespace) -> Namespace:
    """The objects that `settings` describe.

    Raises:
        UserError: what a constructor found wrong, out of the error that the parser makes of it.
    """
    try:
        return parser.instantiate(settings)
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise


def build_backbone(settings: Namespace, benchmark: Benchmark) -> Backbone:
    """The backbone of `settings` for the images of `benchmark`."""
    options = settings.get("init_args") or Namespace()
    return find(settings.class_path)(benchmark.input_shape, **options.as_dict())


def run_name(objects: Namespace, exits: Any) -> str:
    """A folder name that tells runs with other approaches, exits or seeds apart."""
    placement = "" if exits is None else f"_{exits}" if isinstance(exits, str) else f"_{len(exits.at)}exits"
    benchmark = f"{type(objects.benchmark).__name__}{len(objects.benchmark)}"
    return f"{benchmark}_{type(objects.approach).__name__}{placement}_seed{objects.seed}"


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


def show(table: Table) -> None:
    """Prints a table, as wide as it needs where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
