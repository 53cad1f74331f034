"""Backbones made of other people's models: torchvision, timm, or any factory, cut into stages where exits may hang."""

import pickle
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cl_ac.backbones.cutting import LAST_STAGE, cut, last_linear, token_layout
from cl_ac.errors import ConfigurationError, told
from cl_ac.layouts import Layout, usual_layout
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
        layouts: what the axes of stages' outputs are, where the model does not show it: `channels_first`,
            `channels_last`, `class_token`, `tokens` or `vector`.

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
        layouts: dict[str, Layout] | None = None,
    ):
        pretrained = weights == "pretrained"
        try:
            network = self.build(model, image_shape, pretrained, dict(options or {}))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"the model '{model}' cannot be built: {told(error)}") from error
        if weights and not pretrained:
            load_weights(network, weights, last_linear(network))
        parts = cut(network, stages)
        super().__init__(image_shape, parts, layouts)
        self.token_layout = token_layout(parts[LAST_STAGE].graph)
        try:
            *_, features = self.shapes()
        except Exception as error:
            raise ConfigurationError(
                f"the model '{model}' cannot read images of {image_shape}: {told(error)}"
            ) from error
        if len(features) != 1:
            raise ConfigurationError(f"the model '{model}' ends in features of shape {features}; it needs one vector")

    def guessed_layout(self, shape: tuple[int, ...], witnessed: Layout | None) -> Layout | None:
        if len(shape) == 2:
            return None if witnessed == "channels_first" else self.token_layout
        return witnessed if len(shape) == 3 else usual_layout(shape)

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        """The whole model."""
        if pretrained:
            raise ConfigurationError("weights is 'pretrained', which only torchvision and timm have; name a file")
        return pkgutil.resolve_name(model)(**options)


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


# Under these names training scripts keep a model's state among other things.
STATE_NAMES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
# Wrappers for several GPUs and compiled models put these before every name.
PREFIXES = ("module.", "_orig_mod.")


def load_weights(model: nn.Module, path: str, classifier: str | None = None) -> None:
    """Loads the state in the file at `path`; runs no code from it.

    A state inside a checkpoint of a training script is found, and prefixes of wrappers are taken off.

    Args:
        classifier: the layer at the model's end, which is not used: it may be of another number of classes.

    Raises:
        ConfigurationError: if it cannot be read or is another model's.
    """
    state = _plain(_state_in(path), model)
    own = model.state_dict()
    unused = {f"{classifier}.weight", f"{classifier}.bias"} if classifier else set()
    missing, strange = sorted(own.keys() - state.keys() - unused), sorted(state.keys() - own.keys() - unused)
    shapes = [name for name in own.keys() & state.keys() - unused if own[name].shape != state[name].shape]
    faults = [
        f"{len(names)} of its {len(own)} tensors {what}, such as '{names[0]}'"
        for names, what in ((missing, "are missing"), (strange, "are strangers"), (sorted(shapes), "differ in shape"))
        if names
    ]
    if faults:
        raise ConfigurationError(f"weights '{path}' are no state of {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict({name: own[name] if name in unused else state[name] for name in own})


def _state_in(path: str) -> dict[str, Tensor]:
    """The tensors by name in the file at `path`."""
    try:
        content = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Raised for objects other than tensors, and for what is no such file at all.
        reason = (
            "it holds more than tensors"
            if "Unsupported" in str(error) or "WeightsUnpickler" in str(error)
            else ("it cannot be read")
        )
        raise ConfigurationError(
            f"weights '{path}' are no state: {reason}; save the model's state_dict() with torch.save"
        ) from error
    except Exception as error:
        raise ConfigurationError(f"weights '{path}' cannot be read: {told(error)}") from error
    inner = (
        next((content[name] for name in STATE_NAMES if isinstance(content.get(name), Mapping)), content)
        if (isinstance(content, Mapping))
        else None
    )
    if not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise ConfigurationError(
            f"weights '{path}' hold {'a ' + type(content).__name__ if inner is None else 'other things than tensors'}; "
            f"they must be a state_dict(), or a mapping with one as {', '.join(STATE_NAMES)}"
        )
    return dict(inner)


def _plain(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` without a prefix that each of its names has and the model's have not."""
    for prefix in PREFIXES:
        own = any(name.startswith(prefix) for name in model.state_dict())
        if not own and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
