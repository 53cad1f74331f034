"""Backbones made of other people's models: torchvision, timm, or any factory, cut into stages where exits may hang."""

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from cl_ac.backbones import chaining
from cl_ac.backbones.cutting import LAST_STAGE, CannotBeTraced, cut, token_layout
from cl_ac.backbones.weights import load_weights
from cl_ac.data.layouts import Layout, usual_layout
from cl_ac.errors import ConfigurationError, told
from cl_ac.network import Backbone, Exits


class WrappedModel(Backbone):
    """A classification model that a function or class at a dotted path builds, such as `my_package.models.my_net`.

    Args:
        image_shape: channels, height and width.
        model: what builds it.
        stages: submodules at whose end a stage ends, shallow to deep; ACs may hang there. A last stage,
            `penultimate`, follows and gives what the model's last linear layer would read. None cuts after each of the
            model's largest blocks.
        weights: `true` for the weights that the model's own factory offers, which it downloads if they are not here;
            or a file with the model's state (`.safetensors`, or `.pth` as `torch.save` writes it), in which a
            classifier of another number of classes does not matter. None leaves the initial weights.
        options: keyword arguments of what builds it.
        layouts: what the axes of stages' outputs are, where the model does not show it: `channels_first`,
            `channels_last`, `class_token`, `tokens`, `patches`, `patch_map` or `vector`.

    Raises:
        ConfigurationError: if the model cannot be built, loaded, cut there, or fed with such images.
    """

    only_at_start = ("weights",)
    usual_model: ClassVar[str] = ""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        model: str,
        stages: list[str] | None = None,
        weights: bool | str | None = None,
        options: dict[str, Any] | None = None,
        layouts: dict[str, Layout] | None = None,
        **learning,
    ):
        network = self._built(model, image_shape, weights is True, dict(options or {}))
        parts, layout = self.cut(network, image_shape, stages)
        super().__init__(image_shape, parts, layouts, **learning)
        self.token_layout = layout
        if isinstance(weights, str):
            self.load(network, weights)
        *_, features = self.shapes()
        if len(features) != 1:
            raise ConfigurationError(f"the model '{model}' ends in features of shape {features}; it needs one vector")

    def guessed_layout(self, shape: tuple[int, ...], witnessed: Layout | None) -> Layout | None:
        if len(shape) == 2:
            return None if witnessed == "channels_first" else self.token_layout
        return witnessed if len(shape) == 3 else usual_layout(shape)

    @staticmethod
    def cut(
        network: nn.Module, image_shape: tuple[int, int, int], stages: Sequence[str] | None
    ) -> tuple[dict[str, nn.Module], Layout | None]:
        """The stages by name, and whether its tokens have one that speaks for the image; None if it does not show it.

        A model whose code cannot be traced is cut by watching it run.
        """
        try:
            parts = cut(network, stages)
        except CannotBeTraced as error:
            try:
                return chaining.chained(network, image_shape, stages), chaining.token_layout(network)
            except chaining.NoChain:
                raise error from None
        return dict(parts), token_layout(parts[LAST_STAGE].graph)

    def load(self, network: nn.Module, path: str) -> None:
        """Loads a file with weights into the whole model."""
        load_weights(network, path, used=self)

    def _built(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        """The whole model, or one sentence that says why there is none."""
        source = None
        try:
            if pretrained:
                source = self.source(model)
            return self.build(model, image_shape, pretrained, options)
        except ConfigurationError:
            raise
        # A factory runs code of its own, which may raise anything.
        except Exception as error:
            if source is None or not _from_outside(error):
                raise ConfigurationError(f"the model '{model}' cannot be built: {told(error)}") from error
            raise ConfigurationError(
                f"weights is true, but those of the model '{model}' cannot be downloaded ({told(error, 100)}); bring "
                f"{source} here, and name the file in backbone.weights"
            ) from error

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        """The whole model, with the weights that its factory offers if it is to be `pretrained`."""
        factory = pkgutil.resolve_name(model)
        if not pretrained:
            return factory(**options)
        asks = {"weights": "DEFAULT", "pretrained": True}
        taken = next((name for name in asks if name in inspect.signature(factory).parameters), None)
        if taken is None:
            raise ConfigurationError(
                f"weights is true, but what builds the model '{model}' takes neither `weights` nor `pretrained`; name "
                "a file"
            )
        return factory(**{taken: asks[taken], **options})

    @classmethod
    def preprocessing(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        if not options.get("weights"):
            return {}
        try:
            return cls.published(options.get("model", cls.usual_model))
        # Whatever is wrong with the model is told when it is built.
        except Exception:
            return {}

    @classmethod
    def published(cls, model: str) -> dict[str, Any]:
        """How the images were made on which the published weights of `model` learned, as options of `Augmentation`."""
        return {}

    def source(self, model: str) -> str:
        """The file with the weights that the factory offers, for who has to bring it."""
        return f"a state of '{model}'"


class TorchvisionModel(WrappedModel):
    """Any classification model of torchvision, such as `resnet18`, `vgg11_bn` or `vit_b_16`."""

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        from torchvision.models import get_model

        return get_model(model, weights="DEFAULT" if pretrained else None, **options)

    def source(self, model: str) -> str:
        from torchvision.models import get_model_weights

        return get_model_weights(model).DEFAULT.url

    @classmethod
    def published(cls, model: str) -> dict[str, Any]:
        from torchvision.models import get_model_weights

        preset = get_model_weights(model).DEFAULT.transforms()
        side = preset.crop_size[0]
        share = side / preset.resize_size[0]
        return described(side, share, preset.mean, preset.std, preset.interpolation.value)


class TimmModel(WrappedModel):
    """Any classification model of timm, such as `resnet10t` or `vit_tiny_patch16_224`.

    It is built for the images' channels, and for their size where it is made for one; published weights are adapted.
    """

    def build(self, model: str, image_shape: tuple[int, int, int], pretrained: bool, options: dict) -> nn.Module:
        channels, *sides = image_shape
        usual: dict[str, Any] = {"in_chans": channels}
        published = _timm(model).get_pretrained_cfg(model)
        if published is not None and published.fixed_input_size:
            usual["img_size"] = tuple(sides)
        return _timm(model).create_model(model, pretrained=pretrained, **{**usual, **options})

    def source(self, model: str) -> str:
        published = _timm(model).get_pretrained_cfg(model)
        if published is None or not (published.hf_hub_id or published.url):
            raise ConfigurationError(f"weights is true, but timm has none for the model '{model}'; name a file")
        if published.hf_hub_id:
            return f"model.safetensors of https://huggingface.co/{published.hf_hub_id}"
        return published.url

    @classmethod
    def published(cls, model: str) -> dict[str, Any]:
        wanted = _timm(model).get_pretrained_cfg(model)
        return described(wanted.input_size[1], wanted.crop_pct, wanted.mean, wanted.std, wanted.interpolation)


class ResNet18(TorchvisionModel):
    """ResNet-18 of torchvision with the AC paper's placements for images of 224 × 224.

    The stages are `layer1.0` … `layer4.1` and `penultimate`.

    Args:
        image_shape: channels, height and width.
        weights: as of `WrappedModel`.
    """

    usual_model = "resnet18"
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

    def __init__(self, image_shape: tuple[int, int, int], weights: bool | str | None = None, **learning):
        stages = [f"layer{group}.{block}" for group in (1, 2, 3, 4) for block in (0, 1)]
        super().__init__(image_shape, self.usual_model, stages, weights, **learning)


class ViTB16(TorchvisionModel):
    """ViT-B/16 of torchvision with the AC paper's placements: the class token after each block but the last.

    The stages are `encoder.layers.encoder_layer_0` … `encoder.layers.encoder_layer_11` and `penultimate`.

    Args:
        image_shape: channels, height and width; square, a multiple of 16.
        weights: as of `WrappedModel`.
    """

    usual_model = "vit_b_16"
    presets: ClassVar[Mapping[str, Exits]] = {
        "sdn": Exits(
            [f"encoder.layers.encoder_layer_{block}" for block in range(11)],
            [round(0.08 * (block + 1), 2) for block in range(11)],
        )
    }

    def __init__(self, image_shape: tuple[int, int, int], weights: bool | str | None = None, **learning):
        stages = [f"encoder.layers.encoder_layer_{block}" for block in range(12)]
        super().__init__(image_shape, self.usual_model, stages, weights, {"image_size": image_shape[-1]}, **learning)


def described(
    side: int, share: float, mean: Sequence[float], std: Sequence[float], interpolation: str
) -> dict[str, Any]:
    """A preprocessing as options of `Augmentation`; other interpolations count as the nearest one that it has."""
    known = "bicubic" if interpolation == "bicubic" else "bilinear"
    return {"size": side, "keep": share, "mean": tuple(mean), "std": tuple(std), "interpolation": known}


def _timm(model: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigurationError(f"the model '{model}' needs timm; install cl_ac[timm]") from error
    return timm


def _from_outside(error: BaseException | None) -> bool:
    """Whether the network or the disk is to blame; libraries of downloads raise errors of their own on top."""
    while error is not None:
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx", "requests"):
            return True
        error = error.__cause__ or error.__context__
    return False
