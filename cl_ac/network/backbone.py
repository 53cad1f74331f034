"""A feature extractor in stages, some of which may be frozen."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import nn

from cl_ac.data.layouts import Layout, Witnesses, check_layout, usual_layout
from cl_ac.errors import ConfigurationError, told, unknown
from cl_ac.network.exits import Exits


class Backbone(nn.Module):
    """A feature extractor as a sequence of named stages; the last one gives the features [B, D].

    A subclass builds its stages for images of `image_shape` (channels, height, width) and may name AC placements in
    `presets`.

    Args:
        image_shape: channels, height and width.
        stages: the stages by name.
        layouts: what the axes of stages' outputs are. Of stages that are left out, one axis is a vector, two are
            tokens with the class token first, and three are a map, as the modules that read it show, else with
            channels first.
        frozen: what never learns: `none`, `all` stages, or the name of a stage, up to which and including it all are
            frozen. Frozen stages stay in evaluation mode, batch norm and dropout too; modules that a method puts into
            them later learn.
        lr_scale: factor on the learning rate of what is not frozen, or a factor for each stage that is named.

    Raises:
        ConfigurationError: if a stage that is named does not exist.

    `only_at_start` names the options that say what the weights start from: a network that takes a saved state is built
    without them. `known_by_weights` says that what frozen stages give depends on the image and their weights
    alone, so that it may be kept. `reads` says whether images or texts enter, or either, as the model is; of texts,
    `vocabulary` is how many tokens are known. `class_token_only` says that stages carry tokens beside those of the
    image, behind the class token.
    """

    presets: ClassVar[Mapping[str, Exits]] = {}
    only_at_start: ClassVar[tuple[str, ...]] = ()
    known_by_weights: bool = True
    reads: ClassVar[frozenset[str]] = frozenset({"images"})
    vocabulary: int | None = None
    class_token_only: bool = False

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        stages: Mapping[str, nn.Module],
        layouts: Mapping[str, Layout] | None = None,
        frozen: str = "none",
        lr_scale: float | dict[str, float] = 1.0,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.known_layouts = dict(layouts or {})
        self.stage_names = list(stages)
        self.stages = nn.ModuleList(stages.values())
        self.lr_scale = lr_scale
        for name, scale in (lr_scale if isinstance(lr_scale, dict) else {self.stage_names[0]: lr_scale}).items():
            if name not in self.stage_names:
                raise ConfigurationError(unknown("stage in backbone.lr_scale", name, self.stage_names))
            if scale < 0:
                raise ConfigurationError(f"backbone.lr_scale is {scale:g}; it must be at least 0")
        self.freeze(frozen)

    def freeze(self, upto: str) -> None:
        """Freezes stages from the first one on, as the option `frozen` says; never thaws any.

        Raises:
            ConfigurationError: if there is no such stage.
        """
        choices = ["none", *self.stage_names, "all"]
        if upto not in choices:
            raise ConfigurationError(unknown("stage in backbone.frozen", upto, choices))
        self.frozen_stages = min(choices.index(upto), len(self.stage_names))
        for stage in self.stages[: self.frozen_stages]:
            stage.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for stage in self.stages[: self.frozen_stages]:
            stage.eval()
            learns = mode and any(parameter.requires_grad for parameter in stage.parameters())
            for module in stage.modules() if learns else ():
                parameters = list(module.parameters())
                # What a method has put into it.
                if parameters and all(parameter.requires_grad for parameter in parameters):
                    module.train()
        return self

    def lr_scales(self) -> dict[nn.Parameter, float]:
        """The factor on the learning rate of each parameter that has another one than 1."""
        scales = self.lr_scale if isinstance(self.lr_scale, dict) else dict.fromkeys(self.stage_names, self.lr_scale)
        pairs = zip(self.stage_names, self.stages, strict=True)
        named = [(scales.get(name, 1.0), stage) for name, stage in pairs]
        return {parameter: scale for scale, stage in named if scale != 1 for parameter in stage.parameters()}

    @classmethod
    def preprocessing(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """How images become inputs of a network with these `options`, as options of `Augmentation`; {} if all is free.

        The command line takes it over where the user says nothing else.
        """
        return {}

    @classmethod
    def tokenizer(cls, options: Mapping[str, Any]) -> str | None:
        """Whose tokenizer the texts need that a network with these `options` reads; None if it reads none.

        The command line takes it over where the user names no other.
        """
        return None

    def exits(self, preset: str) -> Exits:
        """The AC placement called `preset`.

        Raises:
            ConfigurationError: if this backbone has no such preset.
        """
        if preset not in self.presets:
            raise ConfigurationError(
                unknown("exits preset", preset, self.presets) + f" for the backbone {type(self).__name__}"
                if self.presets
                else f"the backbone {type(self).__name__} has no exits preset '{preset}'; name stages in exits.at"
            )
        return self.presets[preset]

    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of each stage's output for one image, without the batch axis.

        Raises:
            ConfigurationError: if a stage cannot read what the one before gives for images of this shape.
        """
        was_training, shapes = self.training, []
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        self.eval()
        with torch.no_grad():
            hidden = torch.zeros(1, *self.image_shape, device=device)
            for name, stage in zip(self.stage_names, self.stages, strict=True):
                try:
                    hidden = stage(hidden)
                # A stage runs code of its own, which may raise anything.
                except Exception as error:
                    way_out = (
                        "; if it reads colours, give benchmark.augmentation.mean and std three values each"
                        if self.image_shape[0] == 1
                        else ""
                    )
                    raise ConfigurationError(
                        f"the backbone {type(self).__name__} cannot read images of {self.image_shape}: its stage "
                        f"'{name}' fails ({told(error)}){way_out}"
                    ) from error
                shapes.append(tuple(hidden.shape[1:]))
        self.train(was_training)
        return shapes

    def layouts(self) -> list[Layout | None]:
        """What the axes of each stage's output are; None where it cannot be known."""
        witnesses = Witnesses()
        with witnesses.watching(self):
            shapes = self.shapes()
        for name, layout in self.known_layouts.items():
            if name not in self.stage_names:
                raise ConfigurationError(unknown("stage in layouts", name, self.stage_names))
            check_layout(name, layout, shapes[self.stage_names.index(name)])
        layouts = []
        for name, shape in zip(self.stage_names, shapes, strict=True):
            witnessed = witnesses.layout(shape)
            layouts.append(self.known_layouts.get(name) or self.guessed_layout(shape, witnessed))
            if len(shape) == 3 and name not in self.known_layouts and not witnessed and layouts[-1]:
                warnings.warn(
                    f"nothing shows what the axes of the output {shape} of the stage '{name}' of "
                    f"{type(self).__name__} are; they are read as {layouts[-1]}, or say it in the backbone's layouts",
                    stacklevel=2,
                )
        return layouts

    def guessed_layout(self, shape: tuple[int, ...], witnessed: Layout | None) -> Layout | None:
        """The layout of an output of `shape` that nobody named.

        Args:
            witnessed: where the modules that read such outputs expect the channels; None if they do not show it.
        """
        return witnessed if witnessed and len(shape) == 3 else usual_layout(shape)
