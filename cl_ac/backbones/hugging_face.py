"""Backbones made of Hugging Face's vision encoders and language models, from their hub or from a folder."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from cl_ac.backbones.calls import first_tensor
from cl_ac.backbones.chaining import READINGS, chained, token_layout
from cl_ac.backbones.hub_files import (
    PREPROCESSING,
    class_of,
    configuration,
    file_of,
    published,
    quiet,
    unreachable,
    usual_reading,
)
from cl_ac.backbones.text_stages import cut_texts
from cl_ac.backbones.weights import check_fit, state_in
from cl_ac.backbones.wrapped import WrappedModel
from cl_ac.data.layouts import TEXT_READINGS, Layout
from cl_ac.errors import ConfigurationError
from cl_ac.network import Exits


class HuggingFaceModel(WrappedModel):
    """A vision encoder or a language model of Hugging Face transformers, such as `facebook/dinov2-small`, or a folder.

    A folder holds `config.json`, and `model.safetensors` for `weights: true`. A name stands for the model of the hub,
    which is downloaded with `weights: true` only, and then kept by the library as HF_HOME and HF_HUB_OFFLINE say;
    without, a configuration that is here already gives a network with its initial weights. No code of a model is run.
    The stages are the modules of its transformer or convolutional network, such as `vit.layers.0`, and give what the
    library's classifier of that kind would read. Where images are of another size than the configuration's, positions
    are interpolated if the model can.

    A language model reads texts, such as those of the benchmark `TextTable`, which take over its tokenizer. Its stages
    are `embeddings`, its layers, such as `encoder.layer.0`, and `penultimate`; padding is never read. The preset `sdn`
    puts an exit after each layer but the last.

    Args:
        model: a folder, or a name on the hub.
        options: settings of `config.json` that are others here.
        reading: what speaks for a text at the final exit: the `class` (first) token, the `mean` of its tokens, or the
            `last` one. `auto` is what the folder's `1_Pooling/config.json` says, else the class token of encoders and
            the last token of decoders.
    """

    reads = frozenset({"images", "texts"})

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        model: str,
        stages: list[str] | None = None,
        weights: bool | str | None = None,
        options: dict[str, Any] | None = None,
        layouts: dict[str, Layout] | None = None,
        reading: Literal["auto", "class", "mean", "last"] = "auto",
        **learning,
    ):
        self.reading: str = reading
        super().__init__(image_shape, model, stages, weights, options, layouts, **learning)
        self.reads = frozenset({"texts" if self.token_layout in TEXT_READINGS else "images"})
        if self.token_layout not in TEXT_READINGS:
            if reading != "auto":
                raise ConfigurationError(f"backbone.reading is '{reading}', but the model '{model}' reads no texts")
            return
        # Frozen stages cut a batch to its longest text, so that only what exits read has one shape.
        self.known_by_weights = self.frozen_stages == len(self.stages)

    def exits(self, preset: str) -> Exits:
        if preset != "sdn" or self.token_layout not in TEXT_READINGS:
            return super().exits(preset)
        layers = self.stage_names[1:-2]
        return Exits(list(layers), [round((index + 1) / (len(layers) + 2), 2) for index in range(len(layers))])

    def guessed_layout(self, shape: tuple[int, ...], witnessed: Layout | None) -> Layout | None:
        if self.token_layout in TEXT_READINGS and len(shape) == 2:
            return self.token_layout
        return super().guessed_layout(shape, witnessed)

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        config = configuration(model, pretrained, options)
        cls = class_of(config)
        wanted = "texts" if cls.main_input_name == "input_ids" else "images"
        given = "texts" if tuple(image_shape[:2]) == (1, 1) else "images"
        if wanted != given:
            raise ConfigurationError(f"the model '{model}' reads {wanted}, but the benchmark holds {given}")
        if wanted == "texts":
            self.vocabulary = config.get_text_config().vocab_size
            if self.reading == "auto":
                self.reading = usual_reading(model, cls, config)
        if not pretrained:
            with quiet():
                return self._with_end(cls._from_config(config, dtype=torch.float32), config)
        with quiet():
            try:
                network, info = cls.from_pretrained(
                    model,
                    config=config,
                    # Many are published in bfloat16, whose rounding neither training nor comparisons here bear.
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
            except OSError as error:
                raise ConfigurationError(unreachable(model, error)) from error
        _check(model, network, info)
        return self._with_end(network, config)

    def _with_end(self, network: nn.Module, config: Any) -> nn.Module:
        """The library's classifier of images as it is, an encoder of images or texts with what ends it."""
        from transformers import AutoModelForImageClassification

        if network.main_input_name == "input_ids":
            return LanguageModel(network, f"text_{self.reading}")
        return network if type(config) in AutoModelForImageClassification._model_mapping else Featured(network)

    @staticmethod
    def cut(
        network: nn.Module, image_shape: tuple[int, int, int], stages: Sequence[str] | None
    ) -> tuple[dict[str, nn.Module], Layout | None]:
        if isinstance(network, LanguageModel):
            layout = cast(Layout, network.layout)
            return cut_texts(network.encoder, image_shape[-1], stages, layout), layout
        encoder = network.encoder if isinstance(network, Featured) else network
        takes = inspect.signature(encoder.forward).parameters
        options: dict[str, Any] = {}
        size = getattr(getattr(encoder.config, "vision_config", encoder.config), "image_size", None)
        if "interpolate_pos_encoding" in takes and isinstance(size, int) and size != image_shape[-1]:
            options["interpolate_pos_encoding"] = True
        return chained(network, image_shape, stages, **options), token_layout(encoder)

    @classmethod
    def tokenizer(cls, options: Mapping[str, Any]) -> str | None:
        return options.get("model")

    def load(self, network: nn.Module, path: str) -> None:
        encoder = network.encoder if isinstance(network, Featured | LanguageModel) else network
        state = state_in(path)
        with quiet():
            loaded, info = cast(Any, type(encoder)).from_pretrained(
                None,
                config=encoder.config,
                state_dict=state,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        _check(path, loaded, info)
        encoder.load_state_dict(loaded.state_dict())

    @classmethod
    def preprocessing(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        model, weights = options.get("model"), options.get("weights")
        if not weights or model is None:
            return {}
        try:
            return published(json.loads(file_of(model, PREPROCESSING, weights is True).read_text()))
        # A model may say nothing of its images, and whatever else is wrong is told when it is built.
        except Exception:
            return {}


class LanguageModel(nn.Module):
    """A language model without its classifier, and how its tokens become one vector.

    Args:
        encoder: it.
        layout: one of `TEXT_READINGS`.
    """

    def __init__(self, encoder: nn.Module, layout: str):
        super().__init__()
        self.encoder, self.layout = encoder, layout


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
    first = name.partition(".")[0]
    return first in ("classifier", "head", "cls_classifier", "distillation_classifier", "pooler", "cls", "lm_head")
