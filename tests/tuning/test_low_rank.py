"""Low-rank adapters: what is added to which rows of which weights, and what is refused."""

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.bank import draw
from cl_ac.tuning.low_rank import add_low_rank


def weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    modules = [(name, module) for name, module in backbone.named_modules() if "parametrizations" not in name]
    return {name: module.weight.clone() for name, module in modules if hasattr(module, "weight")}


def test_the_product_is_added_and_has_the_rank(frozen_backbone, perturb):
    backbone = frozen_backbone("toy")
    before = backbone.stages[1][0].weight.clone()
    (bank,) = add_low_rank(backbone, rank=2, alpha=3.0)
    perturb(backbone)
    entry = bank.newest
    delta = (backbone.stages[1][0].weight - before).flatten(1)
    torch.testing.assert_close(delta, 1.5 * entry.up @ entry.down)
    assert torch.linalg.matrix_rank(delta) == 2


def test_names_choose_layers_by_the_end_of_their_path_or_a_pattern(frozen_backbone, perturb):
    for names, expected in (
        (["qkv"], ["stages.1.attention.qkv", "stages.2.attention.qkv"]),
        (["stages.2.*.down"], ["stages.2.mlp.down"]),
        (["mlp.up", "proj"], [f"stages.{index}.{end}" for index in (1, 2) for end in ("attention.proj", "mlp.up")]),
    ):
        backbone = frozen_backbone("ViT")
        before = weights(backbone)
        add_low_rank(backbone, names=names)
        perturb(backbone)
        after = weights(backbone)
        assert [name for name, value in before.items() if not torch.equal(after[name], value)] == expected


@pytest.mark.parametrize("name", ["ViT", "timm"])
def test_keys_and_values_of_packed_attention(frozen_backbone, perturb, name):
    backbone = frozen_backbone(name)
    before = {path: value for path, value in weights(backbone).items() if path.endswith("qkv")}
    assert len(add_low_rank(backbone, names=["key", "value"])) == 4
    perturb(backbone)
    for path, value in before.items():
        query, *rest = (backbone.get_submodule(path).weight - value).chunk(3)
        assert not query.any()
        assert all(part.all() for part in rest)


def test_weights_that_attention_reads_itself_are_reached():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    block = nn.Sequential()
    block.add_module("attention", attention)
    backbone = Backbone((1, 2, 4), {"block": block})
    backbone.freeze("all")
    banks = add_low_rank(backbone, names=["attention"])
    draw(backbone, lambda index: torch.Generator().manual_seed(index))
    with torch.no_grad():
        banks[0].newest.up.add_(1.0)
    tokens, known = torch.randn(1, 3, 8), attention.in_proj_weight.detach()
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(known)
        plain.out_proj.weight.copy_(attention.out_proj.weight)
    torch.testing.assert_close(attention(tokens, tokens, tokens)[0], plain(tokens, tokens, tokens)[0])


def test_what_cannot_be_is_refused(frozen_backbone):
    with pytest.raises(ConfigurationError, match="rank of low-rank adapters is 0; it must be at least 1"):
        add_low_rank(frozen_backbone("ViT"), rank=0)
    with pytest.raises(ConfigurationError, match="unknown layer in the backbone ViT 'qkvs'; did you mean 'qkv'"):
        add_low_rank(frozen_backbone("ViT"), names=["qkvs"])
    with pytest.raises(ConfigurationError, match="no linear layer or convolution behind the first"):
        add_low_rank(Backbone((1, 6, 6), {"flat": nn.Flatten()}))
