from collections.abc import Callable

import pytest
import torch

from cl_ac.data.batches import Batch


@pytest.fixture
def check_newest_alone_learn(toy_benchmark, toy_trainer, toy_learn):
    """Checks the loss of an approach with a bank in its second task, and that it moves the newest entries and heads."""

    def check(approach, network, is_newest: Callable[[str], bool]) -> None:
        first, second, _ = toy_benchmark().tasks
        toy_learn(approach, network, [first])
        approach.expand(second, network, toy_trainer)
        network.grow(2, 0)
        network.train_old_rows(approach.trains_old_rows)
        network.zero_grad()
        images, targets = torch.randn(4, 1, 6, 6), torch.tensor([2, 3, 3, 2])
        loss = approach.loss(network.eval(), Batch(images, targets, second))
        expected = -network(images)[..., 2:].log_softmax(-1)[:, range(4), targets - 2].mean(1)
        torch.testing.assert_close(loss, expected)
        loss.sum().backward()
        moved = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
        newest = {name for name, _ in network.named_parameters() if is_newest(name)}
        assert newest
        assert moved == newest | {
            name for name, _ in network.named_parameters() if name.startswith("heads") and "new_" in name
        }

    return check
