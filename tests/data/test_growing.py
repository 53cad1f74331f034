import torch
from torch import nn

from cl_ac.data.growing import Growing


class Holder(Growing):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("count", torch.zeros(0))


def test_loading_takes_over_shapes_and_late_buffers():
    saved = Holder()
    saved.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    saved.count = torch.arange(3.0)
    saved.register_buffer("importance", torch.tensor([7.0]))
    loaded = Holder()
    loaded.load_state_dict(saved.state_dict())
    assert loaded.weight.tolist() == [1.0, 2.0]
    assert isinstance(loaded.weight, nn.Parameter)
    assert loaded.count.tolist() == [0.0, 1.0, 2.0]
    assert loaded.importance.tolist() == [7.0]


def test_nested_modules_keep_their_own():
    class Outer(Growing):
        def __init__(self):
            super().__init__()
            self.inner = Holder()

    saved = Outer()
    saved.inner.count = torch.ones(2)
    loaded = Outer()
    loaded.load_state_dict(saved.state_dict())
    assert loaded.inner.count.tolist() == [1.0, 1.0]
    assert "inner.count" in loaded.state_dict()
    assert dict(loaded.named_buffers(recurse=False)) == {}
