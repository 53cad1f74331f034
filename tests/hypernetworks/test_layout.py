"""Which weights are emitted, and how they vary at first."""

import pytest
import torch
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.layout import Layout, spread


@pytest.fixture
def target():
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4, bias=False))


def test_weights_of_modules_and_single_ones_stand_in_the_order_of_the_target(target):
    assert list(Layout.of(target).shapes) == ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight"]
    layout = Layout.of(target, ["3", "0.bias"])
    assert dict(layout.shapes) == {"0.bias": (3,), "3.weight": (4, 3)}
    assert len(layout) == 15


def test_splitting_reverses_joining_with_any_batch_axes(target):
    layout = Layout.of(target)
    vector = layout.join(dict(target.named_parameters()))
    parts = layout.split(torch.stack([vector, 2 * vector]))
    for name, value in target.named_parameters():
        torch.testing.assert_close(parts[name], torch.stack([value, 2 * value]))


def test_a_name_that_the_target_lacks_is_refused_with_the_nearest(target):
    with pytest.raises(ConfigurationError, match=r"'0\.wieght'; did you mean '0\.weight'"):
        Layout.of(target, ["0.wieght"])


def test_fan_is_the_published_variance_by_hand(target):
    first = spread(target, layout := Layout.of(target))
    deviations = {name: part.flatten()[0].item() for name, part in layout.split(first.deviation).items()}
    # A convolution of 2 × 3 × 3 inputs with a bias, and a linear layer of 3 without.
    assert deviations["0.weight"] ** 2 == pytest.approx(2 / (2 * 18))
    assert deviations["0.bias"] == 1
    assert deviations["3.weight"] ** 2 == pytest.approx(2 / 3)
    means = layout.split(first.mean)
    assert means["0.weight"].count_nonzero() == 0
    assert means["1.weight"].tolist() == [1, 1, 1]


def test_a_bias_that_is_shared_leaves_the_weight_all_of_the_variance(target):
    first = spread(target, Layout.of(target, ["0.weight"]))
    assert first.deviation[0].item() ** 2 == pytest.approx(2 / 18)


def test_own_stays_at_the_targets_values(target):
    layout = Layout.of(target)
    first = spread(target, layout, "own")
    torch.testing.assert_close(layout.split(first.mean)["0.weight"], target[0].weight)
    assert first.share == 1e-3
