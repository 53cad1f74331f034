"""Backbones made of other people's models: torchvision, timm, or any factory, cut into stages where exits may hang."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import nn

from cl_ac.backbones.cutting import cut
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, Exits


class WrappedModel(Backbone):
    """A classification model that a function or class at a dotted path builds, such as `my_package.models.my_net`.

    Args:
        image_shape: channels, height and width.
        model: what builds it.
        stages: submodules at whose end a stage ends, shallow to deep; ACs may hang there. A last stage,
            `penultimate`, follows and gives what the model's last linear layer would read.
        weights: a file with the model's state (`.safetensors`, or `.pt` as `torch.save` writes it); None leaves the
            initial weights; `pretrained` downloads the published ones, where the model's library has them.
        options: keyword arguments of what builds it.

    Raises:
        ConfigurationError: if the model cannot be built, loaded, cut there, or fed with such images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        model: str,
        stages: list[str],
        weights: str | None = None,
        options: dict[str, Any] | None = None,
    ):
        pretrained = weights == "pretrained"
        try:
            network = self.build(model, image_shape, pretrained, dict(options or {}))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"the model '{model}' cannot be built: {error}") from error
        if weights and not pretrained:
            load_weights(network, weights)
        super().__init__(image_shape, cut(network, stages))
        try:
            *_, features = self.shapes()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ConfigurationError(f"the model '{model}' cannot read images of {image_shape}: {reason}") from error
        if len(features) != 1:
            raise ConfigurationError(f"the model '{model}' ends in features of shape {features}; it needs one vector")

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        """The whole model."""
        if pretrained:
            raise ConfigurationError("weights is 'pretrained', which only torchvision and timm have; name a file")
        module, _, name = model.rpartition(".")
        return getattr(importlib.import_module(module), name)(**options)


class TorchvisionModel(WrappedModel):
    """Any classification model of torchvision, such as `resnet18`, `vgg11_bn` or `vit_b_16`."""

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        from torchvision.models import get_model

        return get_model(model, weights="DEFAULT" if pretrained else None, **options)


class TimmModel(WrappedModel):
    """Any classification model of timm, such as `resnet10t` or `vit_tiny_patch16_224`."""

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        try:
            import timm
        except ImportError as error:
            raise ConfigurationError(f"the model '{model}' needs timm; install cl_ac[timm]") from error
        return timm.create_model(model, pretrained=pretrained, **{"in_chans": image_shape[0], **options})


class ResNet18(TorchvisionModel):
    """ResNet-18 of torchvision with the AC paper's placements for images of 224 × 224.

    The stages are `layer1.0` … `layer4.1` and `penultimate`.

    Args:
        image_shape: channels, height and width.
        weights: as of `WrappedModel`.
    """

    presets: ClassVar[Mapping[str, Exits]] = {
        "sdn": Exits(
            ["layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0"],
            [0.3, 0.4, 0.55, 0.65, 0.8, 0.9],
        ),
        "dense": Exits(
            ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0"],
            [0.2, 0.3, 0.4, 0.55, 0.65, 0.8, 0.9],
        ),
    }

    def __init__(self, image_shape: tuple[int, int, int], weights: str | None = None):
        stages = [f"layer{group}.{block}" for group in (1, 2, 3, 4) for block in (0, 1)]
        super().__init__(image_shape, "resnet18", stages, weights)


class ViTB16(TorchvisionModel):
    """ViT-B/16 of torchvision with the AC paper's placements: the class token after each block but the last.

    The stages are `encoder.layers.encoder_layer_0` … `encoder.layers.encoder_layer_11` and `penultimate`.

    Args:
        image_shape: channels, height and width; square, a multiple of 16.
        weights: as of `WrappedModel`.
    """

    presets: ClassVar[Mapping[str, Exits]] = {
        "sdn": Exits(
            [f"encoder.layers.encoder_layer_{block}" for block in range(11)],
            [round(0.08 * (block + 1), 2) for block in range(11)],
        )
    }

    def __init__(self, image_shape: tuple[int, int, int], weights: str | None = None):
        stages = [f"encoder.layers.encoder_layer_{block}" for block in range(12)]
        super().__init__(image_shape, "vit_b_16", stages, weights, {"image_size": image_shape[-1]})


def load_weights(model: nn.Module, path: str) -> None:
    """Loads the state in the file at `path`; runs no code from it.

    Raises:
        ConfigurationError: if it cannot be read or is another model's.
    """
    try:
        state = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigurationError(f"weights '{path}' are no state of {type(model).__name__}: {reason}") from error
