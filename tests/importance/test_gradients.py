import torch
import torch.nn.functional as F

from cl_ac.importance.gradients import gradients


def test_small_gradients_survive_float16():
    stream = torch.Generator().manual_seed(0)
    first, second = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)
    images, targets = torch.randn(16, 6, generator=stream), torch.arange(16) % 3
    parameters = [first.weight, second.weight]

    def loss() -> torch.Tensor:
        return 1e-6 * F.cross_entropy(second(first(images).relu()).float(), targets)

    expected = torch.autograd.grad(loss(), parameters)
    assert all(torch.equal(one, other) for one, other in zip(expected, gradients(loss(), parameters), strict=True))
    with torch.autocast("cpu", torch.float16):
        found, lost = gradients(loss(), parameters), torch.autograd.grad(loss(), parameters)
    assert (lost[0] == 0).float().mean() > 0.5
    for value, right in zip(found, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=0.02, atol=0.01 * right.abs().max().item())


def test_what_overflows_counts_for_nothing():
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.autocast("cpu", torch.float16):
        (found,) = gradients(1e4 * layer(torch.ones(1, 2)).sum(), [layer.weight])
    assert found.tolist() == [[0.0, 0.0]]
