"""What all that tunes a frozen network promises: nothing at first, then it learns alone, and can be taken out."""

import pytest
import torch

from cl_ac.data.copying import copied, seen_again
from cl_ac.exits.cost import exit_costs
from cl_ac.network import ExitNetwork, Exits
from cl_ac.tuning.adapters import add_adapters
from cl_ac.tuning.bank import draw
from cl_ac.tuning.low_rank import add_low_rank
from cl_ac.tuning.merging import merge, untune
from cl_ac.tuning.scale_shift import add_scale_shift

ADDS = {"adapters": add_adapters, "low_rank": add_low_rank, "scale_shift": add_scale_shift}
CASES = [(kind, name) for kind in ADDS for name in ("toy", "ViT", "timm", "torchvision")]


def stream(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(index)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_begins_as_nothing_and_is_taken_out_without_trace(frozen_backbone, answer, perturb, kind, name):
    backbone = frozen_backbone(name)
    before, state = answer(backbone), {key: value.clone() for key, value in backbone.state_dict().items()}
    ADDS[kind](backbone)
    draw(backbone, stream)
    assert torch.equal(answer(backbone), before)
    perturb(backbone)
    assert not torch.equal(answer(backbone), before)
    untune(backbone)
    assert torch.equal(answer(backbone), before)
    assert backbone.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_alone_gets_gradients_and_all_of_it(frozen_backbone, perturb, kind, name):
    backbone = frozen_backbone(name)
    frozen = {id(parameter) for parameter in backbone.parameters()}
    ADDS[kind](backbone)
    draw(backbone, stream)
    perturb(backbone)
    hidden = torch.randn(2, *backbone.image_shape)
    for stage in backbone.train().stages:
        hidden = stage(hidden)
    hidden.square().sum().backward()
    learned = {id(parameter) for parameter in backbone.parameters() if parameter.grad is not None}
    assert learned == {id(parameter) for parameter in backbone.parameters()} - frozen


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_copies_and_states_carry_it(frozen_backbone, answer, perturb, kind, name):
    backbone = frozen_backbone(name)
    ADDS[kind](backbone)
    perturb(backbone)
    learned = answer(backbone)
    assert torch.equal(answer(copied(backbone)), learned)
    again = frozen_backbone(name)
    ADDS[kind](again)
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(answer(again), learned)


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[0] != "adapters"])
def test_merging_keeps_every_bit_and_changes_no_copy(frozen_backbone, answer, perturb, kind, name):
    backbone = frozen_backbone(name)
    ADDS[kind](backbone)
    perturb(backbone)
    learned, other = answer(backbone), seen_again(backbone)
    names = frozen_backbone(name).state_dict().keys()
    merge(other)
    assert torch.equal(answer(other), learned)
    assert other.state_dict().keys() == names
    assert torch.equal(answer(backbone), learned)
    perturb(backbone)
    assert torch.equal(answer(other), learned)
    assert not torch.equal(answer(backbone), learned)


def test_adapters_cost_what_they_compute_and_merged_tuning_nothing(frozen_backbone):
    def cost(add, after=lambda backbone: None) -> float:
        backbone = frozen_backbone("ViT")
        add(backbone)
        after(backbone)
        network = ExitNetwork(backbone, Exits(["block_0"], [0.5]))
        network.grow(2, 0)
        return exit_costs(network).exits[-1]

    plain = cost(lambda backbone: None)
    # Two blocks of five tokens, down from 8 to 3 and up again.
    assert cost(lambda backbone: add_adapters(backbone, width=3)) - plain == 2 * 5 * 2 * 8 * 3
    assert cost(add_low_rank, merge) == cost(add_scale_shift, merge) == cost(add_adapters, untune) == plain
