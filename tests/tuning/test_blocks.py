"""The transformer in a backbone is seen as it runs."""

import pytest
from torch import nn

from cl_ac.backbones.vit import ViT
from cl_ac.backbones.wrapped import TimmModel, TorchvisionModel
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.blocks import transformer


def test_blocks_and_norms(make_backbone):
    backbone = make_backbone()
    found = transformer(backbone, "this test")
    assert len(found.blocks) == 3
    assert found.width == 16
    assert found.tokens - found.prefix_tokens == 4
    for block, first, second in zip(found.blocks, found.attention_norms, found.feed_forward_norms, strict=True):
        assert first != second
        assert first.startswith(f"{block.name}.")
        assert second.startswith(f"{block.name}.")


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 1), ({"reg_tokens": 4}, 5), ({"class_token": False, "global_pool": "avg"}, 0)],
)
def test_tokens_before_the_patches_are_counted(timm_model, options, count):
    assert transformer(timm_model(**options), "this test").prefix_tokens == count


def test_blocks_come_in_the_order_in_which_they_run():
    patches, first, second, third, token = ViT((1, 8, 8), width=16, depth=3, heads=2, patch=4).stages
    turned = Backbone((1, 8, 8), {"patches": patches, "blocks": Backwards(first, second, third), "token": token})
    assert [block.module for block in transformer(turned, "this test").blocks] == [third, second, first]


class Backwards(nn.Sequential):
    def forward(self, hidden):
        for block in reversed(self):
            hidden = block(hidden)
        return hidden


def with_positions_in_every_block() -> Backbone:
    pytest.importorskip("timm")
    options = {"img_size": 28, "num_classes": 3, "depth": 2}
    return TimmModel((3, 28, 28), "eva02_tiny_patch14_224", options=options)


@pytest.mark.parametrize("make", [lambda: TorchvisionModel((3, 32, 32), "resnet18"), with_positions_in_every_block])
def test_a_backbone_without_such_a_transformer_is_refused(make):
    with pytest.raises(ConfigurationError, match="this test needs a vision transformer, and the backbone"):
        transformer(make(), "this test")
