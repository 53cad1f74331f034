import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cl_ac.exits.cost import counted


def test_products_and_convolutions_are_counted():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    macs, result = counted(lambda: layers(torch.ones(2, 3, 4, 4)))
    assert macs == 2 * (3 * 9 * 4 * 4 + 16 * 5)
    assert result.shape == (2, 5)
    assert not result.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_is_counted(dtype):
    queries = torch.ones(2, 3, 7, 8, dtype=dtype)
    assert counted(lambda: F.scaled_dot_product_attention(queries, queries, queries))[0] == 2 * 3 * (2 * 7 * 7 * 8)


def test_attention_modules_are_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    macs, _ = counted(lambda: layer(torch.ones(1, 5, 8)))
    assert macs == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()
