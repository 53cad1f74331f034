"""Copies of modules that compute their weights before each pass."""

import pytest
import torch
from torch import nn

from cl_ac.data.copying import copied


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm, lambda layer: layer]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_copy_answers_the_same_and_shares_nothing(norm):
    module, inputs = nn.Sequential(norm(nn.Linear(3, 2))), torch.randn(4, 3)
    module(inputs).sum().backward()
    twin = copied(module).eval()
    expected = module.eval()(inputs).detach()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert torch.equal(twin(inputs), expected)
    assert not torch.equal(module(inputs), expected)
