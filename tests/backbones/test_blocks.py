"""Attention and blocks are found in everybody's transformers, and in nothing else."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from cl_ac.backbones.attention import attend, find_attentions
from cl_ac.backbones.blocks import find_blocks
from cl_ac.backbones.cutting import cut
from cl_ac.backbones.vit import ViT

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def of_timm(name: str, **options) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, **options)


def of_hugging_face(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**SMALL, image_size=32))


MODELS = {
    "ours": lambda: ViT((1, 8, 8), width=16, depth=2, heads=2),
    "torchvision": lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32),
    "timm": lambda: of_timm("vit_tiny_patch16_224", img_size=32, depth=2),
    "timm, normalised queries": lambda: of_timm("vit_tiny_patch16_224", img_size=32, depth=2, qk_norm=True),
    "Hugging Face ViT": lambda: of_hugging_face("ViT"),
    "Hugging Face DINOv2": lambda: of_hugging_face("Dinov2"),
    "BERT's names": lambda: of_hugging_face("Bert"),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def test_parts_compute_what_the_module_does(model):
    found = find_attentions(model)
    assert len(found) == 2
    for attention in found.values():
        layer, name, rows = attention.rows("key")
        tokens = torch.randn(3, 5, getattr(layer, name).shape[1])
        query, key, value = attention.project(tokens)
        assert query.shape == key.shape == value.shape == (3, attention.heads, 5, tokens.shape[-1] // attention.heads)
        torch.testing.assert_close(attention.mix(query, key, value), attend(attention.module, tokens)[0])
        assert rows.stop - rows.start == tokens.shape[-1]


def test_rows_are_those_of_the_projection(model):
    for attention in find_attentions(model).values():
        for place, kind in enumerate(("query", "key", "value")):
            changed = copy.deepcopy(attention)
            layer, name, rows = changed.rows(kind)
            tokens = torch.randn(2, 3, getattr(layer, name).shape[1])
            with torch.no_grad():
                getattr(layer, name)[rows] += torch.randn_like(getattr(layer, name)[rows])
            pairs = zip(attention.project(tokens), changed.project(tokens), strict=True)
            assert [torch.equal(*pair) for pair in pairs] == [other != place for other in range(3)]


def test_blocks_hold_one_attention_and_one_feed_forward_network(model):
    blocks = find_blocks(model)
    assert len(blocks) == 2
    assert len({block.name for block in blocks}) == 2
    for block in blocks:
        assert model.get_submodule(block.name) is block.module
        assert block.attention.name.startswith(block.name)
        assert block.feed_forward.name.startswith(block.name)
        assert block.module(torch.randn(2, 7, block.width)).shape == (2, 7, block.width)


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_nothing_is_found_where_attention_is_of_another_kind(name):
    model = torchvision.models.get_model(name)
    assert not find_attentions(model)
    assert not find_blocks(model)


def test_causal_attention_and_batches_on_the_second_axis_are_no_such_attention():
    transformers = pytest.importorskip("transformers")
    assert not find_attentions(transformers.GPT2Model(transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2)))
    assert not find_attentions(nn.TransformerEncoderLayer(16, 2))


def test_a_cut_model_keeps_its_blocks():
    model = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32)
    parts = nn.ModuleDict({name.replace(".", "/"): part for name, part in cut(model, None).items()})
    assert [block.module for block in find_blocks(parts)] == [block.module for block in find_blocks(model)]


class Overwriting(nn.Module):
    """A block that adds in place to the tokens that it reads."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = block.norm1, block.attention, block.norm2, block.mlp

    def forward(self, hidden):
        hidden += self.attention(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


def test_a_block_that_overwrites_what_it_reads_is_not_kept_whole():
    block = ViT((1, 8, 8), width=16, depth=1, heads=2).stages[1]
    assert find_blocks(nn.Sequential(block))
    assert not find_blocks(nn.Sequential(Overwriting(block)))
