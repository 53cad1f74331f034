"""Banks: entries add up by their weights, the newest learns, and a state brings its entries along."""

import pytest
import torch

from cl_ac.tuning.adapters import add_adapters
from cl_ac.tuning.bank import banks, draw, tuning_parameters, use
from cl_ac.tuning.low_rank import add_low_rank


def test_entries_add_up_by_their_weights(frozen_backbone, perturb):
    backbone = frozen_backbone("ViT")
    (bank, *_) = add_low_rank(backbone, names=["attention.qkv"])
    layer = backbone.stages[1].attention.qkv
    original = layer.weight.clone()
    deltas = []
    for _ in range(2):
        perturb(backbone)
        deltas.append(layer.weight - original)
        bank.add()
    use(backbone, {0: 0.25, 1: 2.0})
    torch.testing.assert_close(layer.weight, original + 0.25 * deltas[0] + 2 * deltas[1])
    use(backbone, {})
    assert torch.equal(layer.weight, original)


def test_the_newest_entry_alone_is_at_work_and_learns(frozen_backbone, answer, perturb):
    backbone = frozen_backbone("toy")
    before = answer(backbone)
    add_adapters(backbone)
    perturb(backbone)
    earlier = list(tuning_parameters(backbone).values())
    for bank in banks(backbone):
        bank.add()
    assert torch.equal(answer(backbone), before)
    assert not any(parameter.requires_grad for parameter in earlier)
    newest = tuning_parameters(backbone)
    assert all(parameter.requires_grad for parameter in newest.values())
    assert {id(p) for p in backbone.parameters() if p.requires_grad} == {id(p) for p in newest.values()}


@pytest.mark.parametrize("add", [add_adapters, add_low_rank])
def test_a_state_with_more_entries_is_taken_over(frozen_backbone, answer, perturb, add):
    backbone, fresh = frozen_backbone("ViT"), frozen_backbone("ViT")
    for each in (backbone, fresh):
        add(each)
    perturb(backbone)
    for bank in banks(backbone):
        bank.add()
    perturb(backbone)
    use(backbone, {0: 1.0, 1: 0.5})
    fresh.load_state_dict(backbone.state_dict())
    assert torch.equal(answer(fresh), answer(backbone))
    learning = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert learning == [name for name, parameter in fresh.named_parameters() if parameter.requires_grad]


def test_draws_follow_their_streams_and_leave_the_answer(frozen_backbone, answer):
    states = []
    for _ in range(2):
        backbone = frozen_backbone("ViT")
        before = answer(backbone)
        add_adapters(backbone)
        draw(backbone, lambda index: torch.Generator().manual_seed(index))
        assert torch.equal(answer(backbone), before)
        states.append(backbone.state_dict())
    first, second = ([value for key, value in state.items() if key.endswith("down.weight")] for state in states)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
