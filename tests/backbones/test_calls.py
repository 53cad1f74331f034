"""What is seen of a model while it runs."""

import torch
from torch import nn

from cl_ac.backbones.calls import first_tensor, same, steady, watched


class Scaled(nn.Module):
    def forward(self, hidden, scale=1.0, more=None):
        return hidden * scale, more


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Scaled(), nn.Sequential(nn.Identity(), nn.ReLU())

    def forward(self, images):
        hidden, _ = self.first(scale=2.0, hidden=images, more=images.mean((1, 2, 3))[0])
        return self.second(hidden)


def test_calls_say_what_was_read_and_given_in_order():
    calls = watched(Model(), torch.ones(2, 1, 3, 3), {})
    assert [call.path for call in calls] == ["", "first", "second", "second.0", "second.1"]
    whole, first, second, identity, rectifier = calls
    assert (first.place, first.plain, whole.plain) == ("hidden", False, True)
    assert same(whole.read, first.read)
    assert same(first.gave, second.read)
    assert same(identity.gave, identity.read)
    assert same(rectifier.gave, whole.gave)
    assert second.began < identity.began < identity.ended < rectifier.began < second.ended
    assert not any(module._forward_hooks for module in Model().modules())


def test_a_tensor_that_was_written_to_is_another():
    tensor = torch.zeros(2)
    before = tensor, tensor._version
    tensor += 1
    assert not same(before, (tensor, tensor._version))


def test_arguments_that_depend_on_the_images_are_not_steady():
    model = Model()
    one, other = (watched(model, images, {}) for images in (torch.ones(2, 1, 3, 3), torch.zeros(3, 1, 3, 3)))
    assert not steady(one[1], other[1])
    assert steady(one[2], other[2])
    assert steady(one[1], watched(model, torch.ones(4, 1, 3, 3), {})[1])


def test_the_first_tensor_of_what_a_module_gives():
    tensor = torch.zeros(1)
    for output in (tensor, (tensor, 1), [(tensor,)], {"last": tensor, "more": 1}):
        assert first_tensor(output) is tensor
