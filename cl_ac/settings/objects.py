"""The objects that the settings of a run describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from cl_ac.approach import Approach
from cl_ac.benchmark import Benchmark
from cl_ac.classifiers.classifier import Classifier
from cl_ac.compatibility import check_inputs
from cl_ac.data.seeding import global_stream
from cl_ac.efficiency.sparsify import Sparsify
from cl_ac.errors import ConfigurationError
from cl_ac.memory import Memory
from cl_ac.network import NO_EXITS, Backbone, Exits
from cl_ac.settings.messages import sentence
from cl_ac.settings.parser import PLUGINS, checker, instantiate, run_parser
from cl_ac.settings.plugins import classes, find, shown
from cl_ac.sparse_training.sparse import Sparse
from cl_ac.training import Training
from cl_ac.watching.watch import Watch


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
    sparse: Sparse


def build(parser: ArgumentParser, settings: Namespace, saved: bool = False) -> Objects:
    """The objects that `settings` describe, initialised from the seed in them.

    Args:
        saved: whether the network will take a saved state, so that no weights have to be found for it.
    Raises:
        UserError: what a constructor found wrong.
    """
    settings = settings.clone()
    backbone_settings, exits = settings.pop("backbone"), settings.pop("exits")
    exits = Exits(**exits.as_dict()) if isinstance(exits, Namespace) else exits
    with global_stream(settings.seed, "approach"):
        objects = instantiate(parser, settings)
    if (stream := objects.get("stream")) is not None:
        objects.benchmark.stream = stream
    with global_stream(settings.seed, "backbone"):
        backbone = build_backbone(backbone_settings, objects.benchmark, saved)
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
        objects.sparse,
    )


def rebuild(config: Mapping[str, Any], trusted: bool = False, given: Sequence[Any] = ()) -> Objects:
    """The objects of a run, from the settings that it left in its config.yaml, for the state that it left too.

    Args:
        trusted: whether the settings may name classes and functions from outside the package, which runs their code.
        given: those that they may name even so.
    Raises:
        ConfigurationError: if this version, or a plugin that the run used, no longer takes them, or they name what
            they may not.
    """
    parser = run_parser()
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"the run's settings are {shown(config)}; expected options and their values")
    try:
        settings = parser.parse_object(checker(trusted, given).settings(config))
    except (ArgumentError, ConfigurationError, KeyError, RecursionError) as error:
        known = {kind: classes(kind, base) for kind, base in PLUGINS.items()}
        told = sentence(error, parser, known) if isinstance(error, ArgumentError) else str(error)
        raise ConfigurationError(f"the run's settings do not fit this program: {told}") from error
    return build(parser, settings, saved=True)


def build_backbone(settings: Namespace, benchmark: Benchmark, saved: bool = False) -> Backbone:
    """The backbone of `settings` for the images of `benchmark`; for a `saved` state, without what it starts from."""
    options = (settings.get("init_args") or Namespace()).as_dict()
    cls = cast(type[Backbone], find(settings.class_path))
    check_inputs(benchmark, cls)
    kept = {name: value for name, value in options.items() if not (saved and name in cls.only_at_start)}
    return cls(benchmark.input_shape, **kept)
