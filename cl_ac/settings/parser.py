"""The settings of a run, read from the constructors' signatures."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from cl_ac.approach import Approach
from cl_ac.benchmark import Benchmark
from cl_ac.classifiers.classifier import Classifier
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.generators import Generator
from cl_ac.memory import Memory
from cl_ac.network import Backbone, Exits
from cl_ac.recording.loggers import LoggerName
from cl_ac.settings.arguments import checked_arguments
from cl_ac.settings.checking import Checker, plain
from cl_ac.settings.describing import told_before_help
from cl_ac.settings.messages import sentence
from cl_ac.settings.plugins import classes
from cl_ac.settings.preprocessing import take_over_preprocessing
from cl_ac.settings.presets import with_tuned_values
from cl_ac.sparse_training.sparse import Sparse
from cl_ac.streams.stream import Stream
from cl_ac.training import Training
from cl_ac.watching.watch import Watch

PLUGINS: dict[str, type] = {
    "approach": Approach,
    "benchmark": Benchmark,
    "backbone": Backbone,
    "classifier": Classifier,
    "stream": Stream,
}
# Those that a run may leave out.
OPTIONAL = ("classifier", "stream")

# Those that are options of other plugins, and none of a run.
INNER: dict[str, type] = {"generator": Generator}

# The settings of a run that stand together under a name.
GROUPS: dict[str, type] = {
    "training": Training,
    "memory": Memory,
    "watch": Watch,
    "sparsify": Sparsify,
    "sparse": Sparse,
}


def checker(trusted: bool = True, given: Sequence[Any] = ()) -> Checker:
    """What looks at the settings of a run: those of somebody else if not `trusted`."""
    return Checker({**PLUGINS, **INNER}, types_of_settings(), trusted, tuple(given))


@cache
def types_of_settings() -> dict[str, Any]:
    """The types of all settings of a run."""
    known: dict[str, Any] = {**PLUGINS, **GROUPS, "classifier": Classifier | None, "stream": Stream | None}
    return types_of(run_parser(), known)


def types_of(parser: ArgumentParser, known: Mapping[str, Any]) -> dict[str, Any]:
    """The types of all settings of a parser, beside those that are `known`."""
    types = dict(known)
    for action in parser._actions:
        if "." not in action.dest and action.dest not in {*types, "help", "config", "print_config", "print_shtab"}:
            types[action.dest] = bool if action.nargs == 0 else getattr(action, "_typehint", None) or action.type
    return types


def run_parser() -> ArgumentParser:
    """All options of `cl-ac run`, read from the constructors' signatures."""
    parser = ArgumentParser(prog="cl-ac run", description="Trains an approach on a benchmark.", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; what comes later overrides it")
    helps = {
        "approach": "the continual-learning method",
        "benchmark": "the data and how their classes are split into tasks",
        "backbone": "the network without its classifiers",
        "classifier": "what answers at inference instead of the linear heads",
        "stream": "how the data arrive, where tasks do not just bring new classes",
    }
    for kind, base in PLUGINS.items():
        names = ", ".join(classes(kind, base))
        text = f"{helps[kind]}: {names}, or a dotted path such as my_file.MyClass"
        parser.add_subclass_arguments(base, kind, skip={"image_shape"}, required=kind not in OPTIONAL, help=text)
    parser.add_argument(
        "--exits", type=str | Exits | None, default=None, help="where ACs hang: a preset of the backbone, or at/weights"
    )
    parser.add_class_arguments(Training, "training")
    parser.add_class_arguments(Memory, "memory")
    parser.add_class_arguments(Watch, "watch")
    parser.add_class_arguments(Sparsify, "sparsify")
    parser.add_class_arguments(Sparse, "sparse")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    parser.add_argument(
        "--devices", type=int, default=1, help="how many of them share the passes of the network; batches stay as large"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every random stream")
    parser.add_argument("--out", type=str, default="runs", help="the folder in which the run's folder is made")
    parser.add_argument(
        "--name", type=str | None, default=None, help="the run's folder; made of the settings if absent"
    )
    parser.add_argument(
        "--loggers",
        type=list[LoggerName],
        default=["tensorboard"],
        help="where scalars and figures also go; csv writes scalars.csv, wandb needs the package of that name",
    )
    parser.add_argument(
        "--keep_checkpoints",
        type=bool,
        default=False,
        help="keep the state after every task in checkpoints/, not only the newest",
    )
    parser.add_argument(
        "--keep_outputs",
        type=int,
        default=1,
        help="keep every exit's outputs after each so many-th task, and after the last; 0 after the last only",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    return parser


def add_trust(parser: ArgumentParser) -> None:
    """The option of commands that rebuild a finished run, which may be somebody else's."""
    parser.add_argument(
        "--trust_plugins",
        action="store_true",
        help="let the run's settings name classes and functions from outside the package, whose code will run",
    )


def parse(
    parser: ArgumentParser,
    arguments: Sequence[str],
    plugins: Mapping[str, type] = PLUGINS,
    check: Checker | None = None,
    complete: Callable[[Namespace, Namespace], None] = take_over_preprocessing,
) -> Namespace:
    """The settings in `arguments`.

    Args:
        plugins: the base class of each kind of plugin.
        check: looks at the settings; None for those of a run.
        complete: fills in what follows from other settings; it is given the settings with and without defaults.
    Raises:
        ConfigurationError: one sentence that names the setting, its value and what is allowed.
    """
    known = {kind: classes(kind, base) for kind, base in plugins.items()}
    check = checker() if check is None else check
    try:
        given = checked_arguments(arguments, known)
        if description := told_before_help(given, plugins):
            print(description, end="\n\n")
        prepared = with_tuned_values(given, check)
        settings = parser.parse_args(prepared)
        complete(settings, parser.parse_args(prepared, defaults=False))
    except ArgumentError as error:
        raise ConfigurationError(sentence(error, parser, known)) from error
    except RecursionError:
        raise ConfigurationError("an option is nested too deep") from None
    for action in parser._actions:
        name, kind = action.dest, getattr(action, "_typehint", None)
        value = settings.get(name)
        if kind in plugins.values() and value is None and not action.required:
            continue
        if kind is not None and action.nargs is None:
            check.option(name, value, kind, Checker)
        elif name != "config":
            plain(name, value)
    return settings


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
