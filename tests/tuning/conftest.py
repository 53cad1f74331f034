"""Backbones that tuning goes into."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel, TorchvisionModel
from cl_ac.data.seeding import global_stream
from cl_ac.network import Backbone

TIMM = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 12, "num_heads": 2}
MAKES: dict[str, Callable[[], Backbone]] = {
    "ViT": lambda: ViT((1, 8, 8), patch=4, width=8, depth=2, heads=2),
    "timm": lambda: TimmModel((3, 16, 16), "vit_tiny_patch16_224", options=TIMM),
    "torchvision": lambda: TorchvisionModel((3, 32, 32), "shufflenet_v2_x0_5", options={"num_classes": 2}),
}


@pytest.fixture
def frozen_backbone(toy_backbone) -> Callable[[str], Backbone]:
    """Makes a backbone of random weights in evaluation mode, none of which learns."""

    def make(name: str) -> Backbone:
        if name == "timm":
            pytest.importorskip("timm")
        with global_stream(0, "backbone"):
            backbone = toy_backbone() if name == "toy" else MAKES[name]()
        backbone.freeze("all")
        return backbone.eval()

    return make


@pytest.fixture
def answer() -> Callable[[Backbone], Tensor]:
    """What a backbone makes of two images."""

    @torch.no_grad()
    def run(backbone: Backbone) -> Tensor:
        hidden = torch.randn(2, *backbone.image_shape, generator=torch.Generator().manual_seed(5))
        for stage in backbone.stages:
            hidden = stage(hidden)
        return hidden

    return run


@pytest.fixture
def perturb() -> Callable[[Backbone], None]:
    """Moves all that learns, as steps of an optimiser would."""

    @torch.no_grad()
    def move(backbone: Backbone) -> None:
        stream = torch.Generator().manual_seed(6)
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=stream), alpha=0.3)

    return move
