"""The settings of a run, and the objects that they describe. Every setting is a typed constructor argument."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from cl_ac.approach import Approach
from cl_ac.benchmark import Benchmark
from cl_ac.classifiers import Classifier
from cl_ac.cli_errors import sentence
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.loggers import LoggerName
from cl_ac.memory import Memory
from cl_ac.network import NO_EXITS, Backbone, Exits
from cl_ac.plugins import classes, find
from cl_ac.presets import with_tuned_values
from cl_ac.seeding import global_stream
from cl_ac.training import Training
from cl_ac.watch import Watch

PLUGINS: dict[str, type] = {
    "approach": Approach,
    "benchmark": Benchmark,
    "backbone": Backbone,
    "classifier": Classifier,
}


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
    parser.add_class_arguments(Watch, "watch")
    parser.add_class_arguments(Sparsify, "sparsify")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
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


@dataclass(frozen=True)
class Objects:
    """What a run is made of, as `run.run` takes it."""

    approach: Approach
    benchmark: Benchmark
    backbone: Backbone
    exits: Exits | str
    training: Training
    memory: Memory
    classifier: Classifier | None
    watch: Watch
    sparsify: Sparsify


def build(parser: ArgumentParser, settings: Namespace) -> Objects:
    """The objects that `settings` describe, initialised from the seed in them.

    Raises:
        UserError: what a constructor found wrong.
    """
    settings = settings.clone()
    backbone_settings, exits = settings.pop("backbone"), settings.pop("exits")
    exits = Exits(**exits.as_dict()) if isinstance(exits, Namespace) else exits
    with global_stream(settings.seed, "approach"):
        objects = instantiate(parser, settings)
    with global_stream(settings.seed, "backbone"):
        backbone = build_backbone(backbone_settings, objects.benchmark)
    return Objects(
        objects.approach,
        objects.benchmark,
        backbone,
        NO_EXITS if exits is None else exits,
        objects.training,
        objects.memory,
        objects.get("classifier"),
        objects.watch,
        objects.sparsify,
    )


def rebuild(config: Mapping[str, Any]) -> Objects:
    """The objects of a run, from the settings that it left in its config.yaml.

    Raises:
        ConfigurationError: if this version, or a plugin that the run used, no longer takes them.
    """
    parser = run_parser()
    try:
        settings = parser.parse_object(dict(config))
    except (ArgumentError, KeyError) as error:
        known = {kind: classes(kind, base) for kind, base in PLUGINS.items()}
        told = sentence(error, parser, known) if isinstance(error, ArgumentError) else f"there is no {error}"
        raise ConfigurationError(f"the run's settings no longer fit this program: {told}") from error
    return build(parser, settings)


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
