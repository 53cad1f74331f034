"""The transformer in a backbone is seen as it runs."""

import pytest
from torch import nn

from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel, TorchvisionModel
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.blocks import transformer


def hugging_face() -> Backbone:
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=8,
            patch_size=4,
            num_channels=1,
        ),
        add_pooling_layer=False,
    )

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = model.layernorm

        def forward(self, hidden):
            return self.norm(hidden)[:, 0]

    blocks = {f"block_{index}": layer for index, layer in enumerate(model.layers)}
    return Backbone((1, 8, 8), {"patches": model.embeddings, **blocks, "token": Token()})


def timm(name: str, side: int, **options) -> Backbone:
    pytest.importorskip("timm")
    return TimmModel((3, side, side), name, options={"img_size": side, "num_classes": 3, **options})


BACKBONES = {
    "ours": (lambda: ViT((1, 8, 8), width=16, depth=2, heads=2, patch=4), 5, 1),
    "torchvision": (
        lambda: TorchvisionModel((3, 32, 32), "vit_b_16", options={"image_size": 32}),
        5,
        1,
    ),
    "timm": (lambda: timm("vit_tiny_patch16_224", 32, depth=2), 5, 1),
    "timm with registers": (lambda: timm("vit_tiny_patch16_224", 32, depth=2, reg_tokens=4), 9, 5),
    "timm without class token": (
        lambda: timm("vit_tiny_patch16_224", 32, depth=2, class_token=False, global_pool="avg"),
        4,
        0,
    ),
    "Hugging Face": (hugging_face, 5, 1),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_and_tokens(name):
    make, tokens, prefix = BACKBONES[name]
    backbone = make()
    found = transformer(backbone, "this test")
    assert (found.tokens, found.prefix_tokens) == (tokens, prefix)
    names = [module for module, _ in backbone.named_modules()]
    order = [names.index(block.name) for block in found.blocks]
    assert order == sorted(order)
    for block, first, second in zip(found.blocks, found.attention_norms, found.feed_forward_norms, strict=True):
        assert first != second
        assert first.startswith(f"{block.name}.")
        assert second.startswith(f"{block.name}.")


def test_blocks_come_in_the_order_in_which_they_run():
    vit = ViT((1, 8, 8), width=16, depth=3, heads=2, patch=4)
    patches, first, second, third, token = vit.stages
    turned = Backbone((1, 8, 8), {"patches": patches, "rest": nn.Sequential(), "token": token})
    turned.stages[1] = _Backwards(first, second, third)
    assert [block.module for block in transformer(turned, "this test").blocks] == [third, second, first]


class _Backwards(nn.Sequential):
    def forward(self, hidden):
        for block in reversed(self):
            hidden = block(hidden)
        return hidden


@pytest.mark.parametrize(
    "make",
    [
        lambda: TorchvisionModel((3, 32, 32), "resnet18"),
        # Its blocks are handed the positions of the tokens.
        lambda: timm("eva02_tiny_patch14_224", 28, depth=2),
    ],
)
def test_a_backbone_without_such_a_transformer_is_refused(make):
    with pytest.raises(ConfigurationError, match="this test needs a vision transformer, and the backbone"):
        transformer(make(), "this test")
