import pytest
import torch
from torch import nn

from cl_ac.efficiency.observation import call, observed


def test_each_call_is_seen_until_the_context_ends():
    first, second = nn.Linear(2, 3), nn.ReLU()
    model, seen = nn.Sequential(first, second), []
    x = torch.randn(4, 2)
    with observed({"a": first, "b": second}, lambda *call: seen.append(call)):
        expected = model(x)
    model(x)
    (one, given, hidden), (other, entering, output) = seen
    assert (one, other) == ("a", "b")
    assert given is x
    assert entering is hidden
    assert output is expected


def test_an_error_inside_leaves_no_hook():
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), observed({"": layer}, lambda *call: None):
        layer(torch.zeros(3))
    assert not layer._forward_hooks


def test_mappings_are_keyword_arguments():
    x = torch.randn(2, 3)
    assert torch.equal(call(nn.ReLU(), {"input": x}), call(nn.ReLU(), x))
