import pytest
import torch
from torch.nn import functional as F

from cl_ac.kernels.experts import ONEDNN_MACS, ONEDNN_ROWS, product


def of_size(rows: int, macs: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, a weight and a bias whose product takes about so many multiply-accumulates."""
    stream, width = torch.Generator().manual_seed(rows), 512
    features = int(macs / rows / width)
    sizes = (rows, width), (features, width), (features,)
    return tuple(torch.randn(size, generator=stream) for size in sizes)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("rows", "macs"), [(1, 3 * ONEDNN_MACS), (ONEDNN_ROWS, 2 * ONEDNN_MACS), (64, ONEDNN_MACS / 2)]
)
def test_a_product_is_that_of_float64_whichever_library_computes_it(rows, macs, transposed, with_bias):
    x, weight, bias = of_size(rows, macs)
    weight = weight.t().contiguous().t() if transposed else weight
    bias = bias if with_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.inference_mode():
        torch.testing.assert_close(product(x, weight, bias).double(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_large_products_go_to_onednn_where_no_gradient_is_recorded():
    x, weight, bias = of_size(ONEDNN_ROWS, 2 * ONEDNN_MACS)
    names = []
    for context in (torch.no_grad(), torch.enable_grad()):
        with context, torch.profiler.profile() as profile:
            product(x, weight, bias)
        names.append({event.key for event in profile.key_averages()})
    assert any("mkldnn" in name for name in names[0])
    assert not any("mkldnn" in name for name in names[1])


def test_gradients_flow_through_a_large_product():
    x, weight, bias = of_size(ONEDNN_ROWS, 2 * ONEDNN_MACS)
    product(x.requires_grad_(), weight, bias).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand_as(x), atol=1e-3, rtol=1e-4)
