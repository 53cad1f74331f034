"""What a folder or the hub of Hugging Face holds of a model: its configuration, its class, how it reads its inputs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cl_ac.backbones.wrapped import described
from cl_ac.errors import ConfigurationError, told

CONFIG, WEIGHTS, PREPROCESSING = "config.json", "model.safetensors", "preprocessor_config.json"
BICUBIC = 3


def configuration(model: str, download: bool, options: Mapping[str, Any]) -> Any:
    """What `config.json` of a model says, with `options` in its place.

    Raises:
        ConfigurationError: if it is not here, is no vision encoder's, or has no such settings.
    """
    transformers = _transformers(model)
    try:
        file_of(model, CONFIG, download)
        with quiet():
            config = transformers.AutoConfig.from_pretrained(
                model, trust_remote_code=False, local_files_only=not download
            )
    except OSError as error:
        raise ConfigurationError(unreachable(model, error)) from error
    for name, value in options.items():
        if not hasattr(config, name):
            raise ConfigurationError(f"backbone.options has '{name}', which the configuration of '{model}' has not")
        setattr(config, name, value)
    return config


def class_of(config: Any) -> Any:
    """The library's classifier of images for a configuration, else its encoder, of texts too."""
    from transformers import AutoModel, AutoModelForImageClassification

    for auto in (AutoModelForImageClassification, AutoModel):
        if type(config) in auto._model_mapping:
            found: Any = auto._model_mapping[type(config)]
            cls = found[0] if isinstance(found, tuple) else found
            language = not getattr(config, "is_encoder_decoder", False) and config.get_text_config() is config
            allowed = {"pixel_values", "input_ids"} if language else {"pixel_values"}
            if getattr(cls, "main_input_name", "") in allowed:
                return cls
    raise ConfigurationError(
        f"the model is a {config.model_type}, which reads neither images nor texts alone; choose a vision encoder, or "
        "an encoder or decoder of texts"
    )


def usual_reading(model: str, cls: Any, config: Any) -> str:
    """How tokens of a text become one vector, as `1_Pooling/config.json` of the folder says, or as is usual."""
    try:
        pooling = json.loads((Path(model).expanduser() / "1_Pooling" / CONFIG).read_text())
    except OSError:
        pooling = {}
    names = {"mean_tokens": "mean", "cls_token": "class", "lasttoken": "last"}
    said = [reading for name, reading in names.items() if pooling.get(f"pooling_mode_{name}")]
    if said:
        return said[0]
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    masked = type(config) in AutoModelForMaskedLM._model_mapping
    causal = type(config) in AutoModelForCausalLM._model_mapping
    return "last" if causal and not masked else "class"


def published(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `preprocessor_config.json` says of images, as options of `Augmentation`."""
    size, crop = _side(settings.get("size", 224)), _side(settings.get("crop_size"))
    side, share = size, 1.0
    if settings.get("crop_pct") and size < 384:
        share = settings["crop_pct"]
    elif settings.get("do_center_crop") and crop:
        side, share = crop, min(crop / size, 1.0)
    normalised = settings.get("do_normalize", True)
    mean, std = (settings[name] if normalised else [value] * 3 for name, value in (("image_mean", 0), ("image_std", 1)))
    return described(side, share, mean, std, "bicubic" if settings.get("resample") == BICUBIC else "bilinear")


def _side(size: Any) -> int:
    """The shorter side of a size as such files tell it."""
    if isinstance(size, Mapping):
        return int(size.get("shortest_edge") or min(size.get("height", 0), size.get("width", 0)))
    return int(min(size) if isinstance(size, list | tuple) else size or 0)


def file_of(model: str, name: str, download: bool) -> Path:
    """A file of a model, out of its folder, or as the hub or the library's cache has it.

    Raises:
        OSError: if it is in none of them.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / name).exists():
            raise FileNotFoundError(f"'{folder}' holds no {name}")
        return folder / name
    from transformers.utils import cached_file

    found = cached_file(model, name, local_files_only=not download)
    if found is None:
        raise FileNotFoundError(f"'{model}' has no {name}")
    return Path(found)


def unreachable(model: str, error: Exception) -> str:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return f"the model '{model}' cannot be read ({told(error, 100)}); its folder needs {CONFIG} and {WEIGHTS}"
    return (
        f"the model '{model}' is not on this machine ({told(error, 100)}); weights true downloads it where there is a "
        f"network, or bring {CONFIG}, {WEIGHTS} and {PREPROCESSING} of https://huggingface.co/{model} into a folder, "
        "and name it: --backbone hf:FOLDER"
    )


def _transformers(model: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigurationError(f"the model '{model}' needs transformers; install cl_ac[transformers]") from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the library from telling which tensors of a classifier are new, and from showing progress."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
