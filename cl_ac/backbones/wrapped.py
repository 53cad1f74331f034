"""Backbones made of other people's models: torchvision, timm, or any factory, cut into stages where exits may hang."""

import pickle
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cl_ac.backbones.cutting import LAST_STAGE, cut, token_layout
from cl_ac.data.layouts import Layout, usual_layout
from cl_ac.errors import ConfigurationError, told
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
        parts = cut(network, stages)
        super().__init__(image_shape, parts, layouts)
        if weights and not pretrained:
            load_weights(network, weights, used=self)
        self.token_layout = token_layout(parts[LAST_STAGE].graph)
        *_, features = self.shapes()
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


def load_weights(model: nn.Module, path: str, used: nn.Module | None = None) -> None:
    """Loads the state in the file at `path`; runs no code from it.

    A state inside a checkpoint of a training script is found, and prefixes of wrappers are taken off.

    Args:
        used: the part of the model that is used: what the rest needs may be missing or have other shapes, such as a
            classifier of another number of classes. None stands for the whole model.

    Raises:
        ConfigurationError: if it cannot be read or is another model's.
    """
    state, own = _plain(_state_in(path), model), model.state_dict(keep_vars=True)
    needed = {id(value) for value in (used or model).state_dict(keep_vars=True).values()}
    unused = {name for name, value in own.items() if id(value) not in needed}
    common = (own.keys() & state.keys()) - unused
    faults = {
        "are missing": own.keys() - state.keys() - unused,
        "are unknown to it": state.keys() - own.keys(),
        "have other shapes": {name for name in common if own[name].shape != state[name].shape},
    }
    told_faults = [f"{len(names)} tensors {what}, such as '{min(names)}'" for what, names in faults.items() if names]
    if told_faults:
        raise ConfigurationError(f"weights '{path}' are no state of {type(model).__name__}: {'; '.join(told_faults)}")
    model.load_state_dict({name: state[name] for name in common}, strict=False)


def _state_in(path: str) -> dict[str, Tensor]:
    """The tensors by name in the file at `path`."""
    way_out = "save the model's state_dict() with torch.save"
    try:
        content = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What is meant for programmers: what is no such file at all, or holds objects that would run code.
        reason = "cannot be read" if "invalid load key" in str(error) else "hold more than tensors or cannot be read"
        raise ConfigurationError(f"weights '{path}' {reason}; {way_out}") from error
    except Exception as error:
        raise ConfigurationError(f"weights '{path}' cannot be read: {told(error)}") from error
    if isinstance(content, Mapping):
        content = next((content[name] for name in STATE_NAMES if isinstance(content.get(name), Mapping)), content)
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
    raise ConfigurationError(
        f"weights '{path}' hold no tensors by name, neither at the top nor as {', '.join(STATE_NAMES)}; {way_out}"
    )


def _plain(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` without a prefix that each of its names has and the model's have not."""
    for prefix in PREFIXES:
        own = any(name.startswith(prefix) for name in model.state_dict())
        if not own and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
