"""Maximum and average maps of heads."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from cl_ac.heads import Pooling

LAYOUTS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])


def test_a_map_whose_size_the_factor_does_not_divide_keeps_its_rest():
    assert Pooling((3, 7, 5), 2).out_features((3, 7, 5)) == 3 * 4 * 3


@LAYOUTS
def test_one_gradient_is_the_sum_of_those_of_two_pooling_layers(memory_format: torch.memory_format):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 6, 9, generator=generator, dtype=torch.float64).relu()  # some windows are all zeros
    hidden = hidden.to(memory_format=memory_format).requires_grad_()
    scales = torch.randn(2, 3, 5, 2, 3, generator=generator, dtype=torch.float64)
    found = Pooling((5, 6, 9), 3).maps(hidden)
    wanted = F.max_pool2d(hidden, 3), F.avg_pool2d(hidden, 3)
    assert all(map(torch.equal, found, wanted))
    (ours,) = torch.autograd.grad((torch.stack(found) * scales).sum(), hidden)
    (theirs,) = torch.autograd.grad((torch.stack(wanted) * scales).sum(), hidden)
    torch.testing.assert_close(ours, theirs, atol=1e-15, rtol=1e-12)


def test_gradients_of_each_sample_and_second_ones_pass_through():
    hidden = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pooling = Pooling((2, 4, 4), 2)

    def value(image: torch.Tensor) -> torch.Tensor:
        return (pooling(image[None]) ** 2).sum()

    each = vmap(grad(value))(hidden)
    together = torch.func.grad(lambda images: (pooling(images) ** 2).sum())(hidden)
    torch.testing.assert_close(each, together)
    assert torch.autograd.gradgradcheck(lambda images: pooling(images) ** 2, hidden[:1].requires_grad_())
