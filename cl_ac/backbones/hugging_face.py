"""Backbones made of Hugging Face's vision encoders, from their hub or from a folder."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from cl_ac.backbones.calls import first_tensor
from cl_ac.backbones.chaining import READINGS, chained, token_layout
from cl_ac.backbones.weights import check_fit, state_in
from cl_ac.backbones.wrapped import WrappedModel, described
from cl_ac.data.layouts import Layout
from cl_ac.errors import ConfigurationError, told

CONFIG, WEIGHTS, PREPROCESSING = "config.json", "model.safetensors", "preprocessor_config.json"
BICUBIC = 3


class HuggingFaceModel(WrappedModel):
    """A vision encoder of Hugging Face transformers, such as `facebook/dinov2-small` or a folder with its files.

    A folder holds `config.json`, and `model.safetensors` for `weights: true`. A name stands for the model of the hub,
    which is downloaded with `weights: true` only, and then kept by the library as HF_HOME and HF_HUB_OFFLINE say;
    without, a configuration that is here already gives a network with its initial weights. No code of a model is run.
    The stages are the modules of its transformer or convolutional network, such as `vit.layers.0`, and give what the
    library's classifier of that kind would read. Where images are of another size than the configuration's, positions
    are interpolated if the model can.

    Args:
        model: a folder, or a name on the hub.
        options: settings of `config.json` that are others here.
    """

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        config = configuration(model, pretrained, options)
        cls = _class_of(config)
        if not pretrained:
            with _quiet():
                return _with_end(cls._from_config(config), config)
        with _quiet():
            try:
                network, info = cls.from_pretrained(
                    model,
                    config=config,
                    use_safetensors=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
            except OSError as error:
                raise ConfigurationError(_unreachable(model, error)) from error
        network = _with_end(network, config)
        _check(model, network, info)
        return network

    @staticmethod
    def cut(
        network: nn.Module, image_shape: tuple[int, int, int], stages: Sequence[str] | None
    ) -> tuple[dict[str, nn.Module], Layout | None]:
        encoder = network.encoder if isinstance(network, Featured) else network
        takes = inspect.signature(encoder.forward).parameters
        options: dict[str, Any] = {}
        size = getattr(getattr(encoder.config, "vision_config", encoder.config), "image_size", None)
        if "interpolate_pos_encoding" in takes and isinstance(size, int) and size != image_shape[-1]:
            options["interpolate_pos_encoding"] = True
        return chained(network, image_shape, stages, **options), token_layout(encoder)

    def load(self, network: nn.Module, path: str) -> None:
        encoder, state = network.encoder if isinstance(network, Featured) else network, state_in(path)
        with _quiet():
            loaded, info = cast(Any, type(encoder)).from_pretrained(
                None, config=encoder.config, state_dict=state, ignore_mismatched_sizes=True, output_loading_info=True
            )
        _check(path, loaded, info)
        encoder.load_state_dict(loaded.state_dict())

    @classmethod
    def preprocessing(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        model, weights = options.get("model"), options.get("weights")
        if not weights or model is None:
            return {}
        try:
            return published(json.loads(_file(model, PREPROCESSING, weights is True).read_text()))
        # A model may say nothing of its images, and whatever else is wrong is told when it is built.
        except Exception:
            return {}


class Featured(nn.Module):
    """An encoder that has no classifier: it ends in its class token, or in the mean of its tokens or map."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.features = encoder, nn.Identity()
        self.kind = "first token" if token_layout(encoder) == "class_token" else "mean of tokens"

    def forward(self, images: Tensor, **options: Any) -> Tensor:
        hidden = first_tensor(self.encoder(images, **options))
        kind = "mean of a map" if hidden.ndim == 4 else self.kind
        return self.features(READINGS[kind](hidden, 0))


def configuration(model: str, download: bool, options: Mapping[str, Any]) -> Any:
    """What `config.json` of a model says, with `options` in its place.

    Raises:
        ConfigurationError: if it is not here, is no vision encoder's, or has no such settings.
    """
    transformers = _transformers(model)
    try:
        _file(model, CONFIG, download)
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(
                model, trust_remote_code=False, local_files_only=not download
            )
    except OSError as error:
        raise ConfigurationError(_unreachable(model, error)) from error
    for name, value in options.items():
        if not hasattr(config, name):
            raise ConfigurationError(f"backbone.options has '{name}', which the configuration of '{model}' has not")
        setattr(config, name, value)
    return config


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


def _file(model: str, name: str, download: bool) -> Path:
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


def _class_of(config: Any) -> Any:
    """The library's classifier for a configuration, else its encoder."""
    from transformers import AutoModel, AutoModelForImageClassification

    for auto in (AutoModelForImageClassification, AutoModel):
        if type(config) in auto._model_mapping:
            found: Any = auto._model_mapping[type(config)]
            cls = found[0] if isinstance(found, tuple) else found
            if getattr(cls, "main_input_name", "") == "pixel_values":
                return cls
    raise ConfigurationError(
        f"the model is a {config.model_type}, which reads no images alone; choose a vision encoder"
    )


def _with_end(network: nn.Module, config: Any) -> nn.Module:
    from transformers import AutoModelForImageClassification

    return network if type(config) in AutoModelForImageClassification._model_mapping else Featured(network)


def _check(path: str, network: nn.Module, info: Mapping[str, Any]) -> None:
    """Raises a `ConfigurationError` if more than classifiers is missing or of another shape."""
    other = {name for name, *_ in info.get("mismatched_keys", ())}
    check_fit(path, type(network).__name__, {
        "are missing": {name for name in info["missing_keys"] if not _of_classifier(name)},
        "are unknown to it": {name for name in info["unexpected_keys"] if not _of_classifier(name)},
        "have other shapes": {name for name in other if not _of_classifier(name)},
    })  # fmt: skip


def _of_classifier(name: str) -> bool:
    """Whether a tensor belongs to what follows the encoder."""
    return name.partition(".")[0] in ("classifier", "head", "cls_classifier", "distillation_classifier", "pooler")


def _unreachable(model: str, error: Exception) -> str:
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
def _quiet() -> Iterator[None]:
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
