"""The same small transformer from four libraries."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel, WrappedModel
from cl_ac.data.seeding import global_stream
from cl_ac.network import Backbone


class Token(nn.Module):
    """The class token, normalised."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, hidden):
        return self.norm(hidden)[:, 0]


def hugging_face() -> Backbone:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    images = {"image_size": 8, "patch_size": 4, "num_channels": 3}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, **images), add_pooling_layer=False)
    blocks = {f"block_{index}": layer for index, layer in enumerate(model.layers)}
    return Backbone((3, 8, 8), {"patches": model.embeddings, **blocks, "token": Token(model.layernorm)})


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
