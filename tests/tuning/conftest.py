"""Networks that tuning goes into: small ones of all kinds, and the same transformer from four libraries."""

from collections.abc import Callable
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from cl_ac.backbones.hugging_face import HuggingFaceModel
from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel, TorchvisionModel, WrappedModel
from cl_ac.data.seeding import global_stream
from cl_ac.network import Backbone


def hugging_face() -> Backbone:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    images = {"image_size": 8, "patch_size": 4, "num_channels": 3}
    with TemporaryDirectory() as folder:
        transformers.ViTConfig(**sizes, **images).save_pretrained(folder)
        return HuggingFaceModel((3, 8, 8), folder)


def timm(**options) -> Backbone:
    pytest.importorskip("timm")
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return TimmModel((3, 8, 8), "vit_tiny_patch16_224", options={**small, **options})


def torchvision() -> Backbone:
    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    sizes["num_classes"] = 3
    return WrappedModel((3, 8, 8), "torchvision.models.VisionTransformer", options=sizes)


TRANSFORMERS = {
    "ours": lambda: ViT((3, 8, 8), patch=4, width=16, depth=3, heads=2),
    "torchvision": torchvision,
    "timm": timm,
    "timm with registers": lambda: timm(reg_tokens=2),
    "Hugging Face": hugging_face,
}


@pytest.fixture(params=TRANSFORMERS)
def make_backbone(request) -> Callable[[], Backbone]:
    """Makes a backbone of three blocks of width 16 for images of 3 × 8 × 8, with four patches."""

    def make() -> Backbone:
        with global_stream(0, "backbone"):
            backbone = TRANSFORMERS[request.param]()
            for parameter in backbone.parameters():
                # So that every part counts, also those that libraries begin with zero.
                nn.init.normal_(parameter, std=0.3)
        return backbone.eval()

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Five images [5, 3, 8, 8]."""
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def timm_model() -> Callable[..., Backbone]:
    """Makes such a model of timm with other options."""
    return timm


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
