"""Images and texts as a network's published weights need them, where the user says nothing else."""

from collections.abc import Mapping
from typing import cast

from jsonargparse import Namespace

from cl_ac.network import Backbone
from cl_ac.settings.plugins import find

# What only makes sense together.
TOGETHER = ({"mean", "std"}, {"size", "keep"})


def take_over_preprocessing(settings: Namespace, given: Namespace) -> None:
    """Lets the benchmark's augmentation, or its tokenizer, in `settings` do what the backbone needs.

    Args:
        given: the settings without defaults, which stay as they are.
    """
    take_over(settings, given, "backbone", "benchmark")
    options = settings.get("backbone.init_args") or Namespace()
    benchmark = settings.get("benchmark.init_args") or Namespace()
    if "tokenizer" in benchmark and benchmark.tokenizer is None and settings.get("backbone.class_path") is not None:
        benchmark.tokenizer = cast(type[Backbone], find(settings.backbone.class_path)).tokenizer(options.as_dict())


def take_over(settings: Namespace, given: Namespace, backbone: str, data: str) -> None:
    """Lets the augmentation in the settings called `data` do what the backbone of those called `backbone` needs.

    Args:
        given: the settings without defaults, which stay as they are.
    """
    augmentation = settings.get(f"{data}.init_args.augmentation")
    if settings.get(f"{backbone}.class_path") is None or augmentation is None:
        return
    options = settings.get(f"{backbone}.init_args") or Namespace()
    said = given.get(f"{data}.init_args.augmentation") or {}
    names = set(said if isinstance(said, Mapping) else vars(said))
    for together in TOGETHER:
        names |= together if names & together else set()
    cls = cast(type[Backbone], find(settings[backbone].class_path))
    for name, value in cls.preprocessing(options.as_dict()).items():
        if name not in names:
            augmentation[name] = value
