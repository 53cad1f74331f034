"""Split attention gives what PyTorch's gives; `test_adapters` splits whole models."""

import pytest
import torch
from torch import nn

from cl_ac.efficiency.split_attention import SplitAttention, split_projections


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("masks", ["none", "bool", "float", "padding", "both", "per_head"])
def test_split_attention_equals_pytorchs(batch_first, batched, masks):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=batch_first).double().eval()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    batch, length, sources = 2, 4, 5
    query, memory = (torch.randn(batch, size, 12, dtype=torch.float64) for size in (length, sources))
    hidden = torch.rand(length, sources) < 0.3
    hidden[:, 0] = False
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    arguments = {
        "none": {},
        "bool": {"attn_mask": hidden},
        "float": {"attn_mask": torch.randn(length, sources, dtype=torch.float64)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": hidden, "key_padding_mask": padding},
        "per_head": {"attn_mask": torch.randn(batch * 3, length, sources, dtype=torch.float64)},
    }[masks]
    if not batched:
        query, memory = query[0], memory[0]
        heads = {name: mask[:3] for name, mask in arguments.items() if mask.dim() == 3}
        arguments |= heads | {name: mask[0] for name, mask in arguments.items() if name == "key_padding_mask"}
    elif not batch_first:
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    expected, _ = attention(query, memory, memory, need_weights=False, **arguments)
    output, weights = SplitAttention(attention)(query, memory, memory, need_weights=False, **arguments)
    torch.testing.assert_close(output, expected)
    assert weights is None


def test_pytorchs_layer_does_not_bypass_a_split_attention():
    """In evaluation mode it would take its fused kernel, which reads the fused weights."""
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True).eval()
    tokens = torch.randn(2, 5, 12)
    expected = layer(tokens)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    assert len(split_projections(model)) == 4
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), model.train(False)(tokens))
        nn.init.zeros_(model.layers[0].self_attn.output.weight)
        assert not torch.allclose(model(tokens), expected)
