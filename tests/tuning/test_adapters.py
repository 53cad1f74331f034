"""Adapters: where they stand, what they compute, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.adapters import Adapted, add_adapters


@pytest.mark.parametrize("position", ["parallel", "after"])
def test_an_adapter_by_definition(frozen_backbone, perturb, position):
    backbone = frozen_backbone("ViT")
    add_adapters(backbone, width=3, scale=0.5, position=position)
    perturb(backbone)
    adapted, hidden = backbone.stages[1].mlp, torch.randn(2, 5, 8)
    assert isinstance(adapted, Adapted)
    entry, output = adapted.bank.newest, adapted.main(hidden)
    read = hidden if position == "parallel" else output
    narrow = (read @ entry.down.weight.T + entry.down.bias).clamp(min=0)
    expected = output + 0.5 * (narrow @ entry.up.weight.T + entry.up.bias)
    torch.testing.assert_close(adapted(hidden), expected)


def test_beside_convolutions_they_are_convolutions_of_one_place(perturb):
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1)
    backbone = Backbone((4, 7, 7), {"stem": nn.Conv2d(4, 4, 3, padding=1), "second": layer, "flat": nn.Flatten()})
    backbone.freeze("all")
    (bank,) = add_adapters(backbone, width=2, scale=1.0)
    perturb(backbone)
    hidden, entry = torch.randn(2, 4, 7, 7), bank.newest
    narrow = F.relu(F.conv2d(hidden[:, :, ::2, ::2], entry.down.weight, entry.down.bias))
    beside = F.conv2d(narrow, entry.up.weight, entry.up.bias)
    torch.testing.assert_close(backbone.stages[1](hidden), layer(hidden) + beside)


def test_dropout_acts_in_training_though_the_stages_are_frozen(frozen_backbone, perturb):
    backbone = frozen_backbone("ViT")
    (bank, _) = add_adapters(backbone, dropout=0.9)
    perturb(backbone)
    backbone.train()
    hidden = torch.randn(2, 5, 8)
    assert not torch.equal(bank.newest(hidden), bank.newest(hidden))
    assert not backbone.stages[1].training
    backbone.eval()
    assert torch.equal(bank.newest(hidden), bank.newest(hidden))


def test_the_first_blocks_alone(frozen_backbone):
    backbone = frozen_backbone("ViT")
    assert len(add_adapters(backbone, first=1)) == 1
    assert [isinstance(stage.mlp, Adapted) for stage in backbone.stages[1:3]] == [True, False]


def test_what_has_no_place_for_them_is_refused(frozen_backbone):
    with pytest.raises(ConfigurationError, match="neither feed-forward networks nor convolutions"):
        add_adapters(Backbone((1, 6, 6), {"flat": nn.Flatten()}))
    with pytest.raises(ConfigurationError, match="width of adapters is 0; it must be at least 1"):
        add_adapters(frozen_backbone("toy"), width=0)
