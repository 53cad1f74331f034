import pytest
import torch
from torch import nn

from cl_ac.network import Backbone
from cl_ac.sparse_training.initialise import (
    approximate_isometry,
    exactly_orthogonal,
    highest,
    masked_orthogonal,
    rescaled_gaussian,
)
from cl_ac.sparse_training.layers import MaskedLayer, masked_layers, put_masks
from cl_ac.sparse_training.orthogonal import orthogonality_error

STREAM = torch.Generator()


def layer_of(module: nn.Module) -> MaskedLayer:
    STREAM.manual_seed(0)
    put_masks(Backbone((1, 1, 1), {"all": module}))
    return next(masked_layers(module))


@pytest.mark.parametrize("kernels", ["scattered", "fuller", "whole"])
@pytest.mark.parametrize("padding", [("zeros", 1), ("circular", 1), ("reflect", 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_keep_the_norm_of_every_pixel(kernels, padding, groups):
    convolution = nn.Conv2d(16, 24, 3, 1, padding[1], groups=groups, bias=False, padding_mode=padding[0]).double()
    layer = layer_of(convolution)
    layer.set(*exactly_orthogonal(layer, round(0.2 * layer.size), 1.5, kernels, STREAM))
    images = torch.randn(2, 16, 7, 5, dtype=torch.float64)
    before, after = (values.square().unflatten(1, (groups, -1)).sum(2) for values in (images, convolution(images)))
    torch.testing.assert_close(after, 2.25 * before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(64, 48),
        lambda: nn.Conv2d(32, 32, 3),
        lambda: nn.Conv2d(16, 32, 1),
        lambda: nn.Conv2d(32, 16, 5, 2),
        lambda: nn.Conv2d(32, 64, 3, groups=4),
        lambda: nn.MultiheadAttention(32, 2),
    ],
)
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_masks_have_the_density_and_matrices_are_orthogonal(make, density):
    layer = layer_of(make())
    count = max(round(density * layer.size), layer.fewest)
    weight, kept = exactly_orthogonal(layer, count, 1.0, "scattered", STREAM)
    assert kept.sum() == count
    assert (weight[~kept] == 0).all()
    for matrix in weight[..., layer.centre]:
        assert orthogonality_error(matrix) < 1e-12


def test_the_centre_is_as_dense_as_the_layer_or_denser():
    layer, places = layer_of(nn.Conv2d(40, 40, 3)), 40 * 40
    count = round(0.05 * layer.size)
    for kernels, density in (("scattered", 0.05), ("fuller", 0.05**0.5)):
        weight, kept = exactly_orthogonal(layer, count, 1.0, kernels, STREAM)
        assert weight.count_nonzero() / places == pytest.approx(density, abs=0.01)
        assert kept.sum() == count


def test_whole_kernels_are_kept_or_masked():
    layer = layer_of(nn.Conv2d(20, 20, 3))
    _, kept = exactly_orthogonal(layer, round(0.2 * layer.size), 1.0, "whole", STREAM)
    per_kernel = kept.sum(-1)
    assert set(per_kernel.unique().tolist()) == {0, 9}
    assert kept.double().mean() == pytest.approx(0.2, abs=0.01)


def test_the_highest_scores_are_kept():
    scores = torch.tensor([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]])
    assert highest(scores, 4).tolist() == [[False, False, False], [True, True, True]] or highest(scores, 4).sum() == 4
    assert highest(scores, 2).tolist() == [[False, False, False], [True, True, False]]
    assert highest(scores, 3, taps=3).tolist() == [[False] * 3, [True] * 3]


def test_gaussian_values_make_up_for_the_mask():
    layer = layer_of(nn.Linear(400, 300))
    kept = torch.rand(300, 400, generator=STREAM) < 0.25
    weight = rescaled_gaussian(layer, kept, 2.0, STREAM)
    assert weight.var() == pytest.approx(4 / (0.25 * 400), rel=0.05)


def test_dense_orthogonal_values_before_the_mask():
    layer = layer_of(nn.Conv2d(8, 12, 3))
    weight = masked_orthogonal(layer, 1.0, STREAM)
    assert orthogonality_error(weight[:, :, 1, 1]) < 1e-12
    assert weight.count_nonzero() == 8 * 12


@pytest.mark.parametrize("make", [lambda: nn.Linear(30, 20), lambda: nn.Linear(20, 30), lambda: nn.Conv2d(4, 50, 3)])
def test_approximate_isometry_is_nearer_than_where_it_began(make):
    layer = layer_of(make())
    kept = torch.rand(layer.original.shape, generator=STREAM) < 0.5
    state = STREAM.get_state()
    began = rescaled_gaussian(layer, kept, 1.0, STREAM) * kept
    STREAM.set_state(state)
    found = approximate_isometry(layer, kept, 1.0, STREAM)
    assert (found[~kept] == 0).all()
    errors = [orthogonality_error(weight.flatten(1)) for weight in (began, found)]
    assert errors[1] < 0.1 * errors[0]
