"""The settings of a retrieval run, and the objects that they describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import yaml
from jsonargparse import ArgumentParser, Namespace

from cl_ac.data.pairs import PairBenchmark
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.recording.same_run import settings_digest
from cl_ac.recording.stored_settings import by_bare_name
from cl_ac.retrieval.encoder import DualEncoder
from cl_ac.retrieval.folder import RetrievalFolder
from cl_ac.retrieval.learning import ContrastiveTraining
from cl_ac.retrieval.method import Method
from cl_ac.settings.checking import Checker
from cl_ac.settings.configured import folder
from cl_ac.settings.naming import class_name
from cl_ac.settings.parser import instantiate, parse, types_of
from cl_ac.settings.plugins import classes, find
from cl_ac.settings.preprocessing import take_over

TOWERS = ("first", "second")
PLUGINS: dict[str, type] = {"method": Method, "pairs": PairBenchmark, **dict.fromkeys(TOWERS, Backbone)}


@dataclass(frozen=True)
class ConfiguredRetrieval:
    """A retrieval run that is ready to start: `run(**vars(configured))`."""

    method: Method
    benchmark: PairBenchmark
    encoder: DualEncoder
    folder: RetrievalFolder
    training: ContrastiveTraining
    gallery: str
    device: str
    seed: int
    resume: bool
    config: Mapping[str, Any]


def retrieval_parser() -> ArgumentParser:
    """All options of `cl-ac retrieve`, read from the constructors' signatures."""
    parser = ArgumentParser(
        prog="cl-ac retrieve",
        description="Teaches two towers to find what belongs together, one domain after the other. Prints a table, and "
        "writes report/ in the run's folder.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; what comes later overrides it")
    helps = {
        "method": "how domains are learned",
        "pairs": "the pairs and their domains",
        "first": "the tower of the first side",
        "second": "the tower of the second side",
    }
    for kind, base in PLUGINS.items():
        names = ", ".join(classes(kind, base))
        text = f"{helps[kind]}: {names}, or a dotted path such as my_file.MyClass"
        parser.add_subclass_arguments(base, kind, skip={"image_shape"}, required=True, help=text)
    parser.add_argument(
        "--width", type=int | None, default=None, help="of the projections behind both towers; absent means none"
    )
    parser.add_argument("--temperature", type=float, default=0.05, help="that cosines are divided by in losses")
    parser.add_class_arguments(ContrastiveTraining, "training")
    parser.add_argument(
        "--gallery",
        type=Literal["domain", "all"],
        default="domain",
        help="what a query is searched in: test items of its own domain, or of all tested domains",
    )
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, …; auto takes a GPU if any")
    parser.add_argument("--seed", type=int, default=0, help="of every random stream")
    parser.add_argument("--out", type=str, default="runs", help="the folder in which the run's folder is made")
    parser.add_argument(
        "--name", type=str | None, default=None, help="the run's folder; made of the settings if absent"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    return parser


def configured_retrieval(arguments: Sequence[str]) -> ConfiguredRetrieval:
    """The run that the arguments of `cl-ac retrieve` describe.

    Raises:
        UserError: one sentence that names the option, its value and what is allowed.
    """
    parser = retrieval_parser()
    known = {**PLUGINS, "training": ContrastiveTraining}
    check = Checker(PLUGINS, types_of(parser, known))
    settings = parse(parser, arguments, PLUGINS, check, take_over_of_towers)
    settings.pop("config", None)
    stored = by_bare_name(yaml.safe_load(parser.dump(settings, skip_unset=False)))
    usual = f"retrieval_{class_name(stored['pairs'])}_{class_name(stored['method'])}_{settings_digest(stored)[:6]}"
    path = folder(settings.out, settings.name or usual)
    towers = [settings.pop(name) for name in TOWERS]
    with global_stream(settings.seed, "method"):
        objects = instantiate(parser, settings)
    benchmark = objects.pairs
    backbones = []
    for side, tower in enumerate(towers):
        with global_stream(settings.seed, "backbone"):
            backbones.append(build_tower(tower, benchmark, side))
    encoder = DualEncoder(backbones, benchmark.augmentation, settings.width, settings.temperature, settings.seed)
    return ConfiguredRetrieval(
        objects.method,
        benchmark,
        encoder,
        RetrievalFolder(path),
        objects.training,
        settings.gallery,
        settings.device,
        settings.seed,
        settings.resume,
        stored,
    )


def build_tower(settings: Namespace, benchmark: PairBenchmark, side: int) -> Backbone:
    """The tower of a side for the items of that side."""
    options = (settings.get("init_args") or Namespace()).as_dict()
    shape = benchmark.shape(side)
    if len(shape) != 3:
        raise ConfigurationError(
            f"items of the side '{benchmark.sides[side]}' have the shape {shape}; towers read three axes"
        )
    return cast(type[Backbone], find(settings.class_path))(cast(tuple[int, int, int], shape), **options)


def take_over_of_towers(settings: Namespace, given: Namespace) -> None:
    """Lets pairs in `settings` be prepared as the towers need it: images as they learned, texts by their tokenizers.

    Args:
        given: the settings without defaults, which stay as they are.
    """
    for side, name in enumerate(TOWERS):
        take_over(settings, given, name, "pairs")
        pairs = settings.get("pairs.init_args") or Namespace()
        if "tokenizers" in pairs and pairs.tokenizers[side] is None and settings.get(f"{name}.class_path"):
            cls = cast(type[Backbone], find(settings[name].class_path))
            names = list(pairs.tokenizers)
            names[side] = cls.tokenizer((settings[name].get("init_args") or Namespace()).as_dict())
            pairs.tokenizers = names
