"""Linear layers of an approach's own, one for each exit."""

import torch

from cl_ac.heads import ExitLinears


def stream(depth):
    return torch.Generator().manual_seed(depth)


def test_each_exit_has_a_layer_of_its_own_width():
    linears = ExitLinears()
    linears.build([2, 3], 4, stream)
    features = [torch.randn(5, 2), torch.randn(5, 3)]
    outputs = linears(features)
    assert outputs.shape == (2, 5, 4)
    torch.testing.assert_close(outputs[1], features[1] @ linears.layers[1].weight.T + linears.layers[1].bias)


def test_the_final_exit_starts_the_same_with_any_number_of_exits():
    alone, three = ExitLinears(), ExitLinears()
    alone.build([3], 4, stream)
    three.build([2, 2, 3], 4, stream)
    assert torch.equal(alone.layers[0].weight, three.layers[2].weight)
    assert torch.equal(alone.layers[0].bias, three.layers[2].bias)


def test_growing_keeps_the_earlier_outputs():
    linears = ExitLinears()
    linears.build([3], 2, stream)
    features = [torch.randn(5, 3)]
    before = linears(features)
    linears.grow(2, lambda depth: stream(7))
    torch.testing.assert_close(linears(features)[..., :2], before)
    assert linears(features).shape == (1, 5, 4)


def test_a_state_of_any_size_is_taken_over():
    linears, other = ExitLinears(), ExitLinears()
    linears.build([3, 2], 2, stream)
    other.build([1], 1, stream)
    other.load_state_dict(linears.state_dict())
    features = [torch.randn(5, 3), torch.randn(5, 2)]
    assert torch.equal(other(features), linears(features))
    other.load_state_dict(ExitLinears().state_dict())
    assert len(other) == 0


def test_layers_of_exits_whose_loss_weighs_nothing_do_not_learn():
    linears = ExitLinears()
    linears.build([2, 3], 4, stream)
    assert [id(each) for each in linears.learning([0.0, 1.0])] == [id(each) for each in linears.layers[1].parameters()]
