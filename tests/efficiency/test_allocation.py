import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from cl_ac.backbones.vit import ViT
from cl_ac.efficiency.allocation import Allocation, Measured, allocate_thresholds, within
from cl_ac.efficiency.convert import Conversion, convert
from cl_ac.efficiency.dynamic import DynamicFFN, dynamic_ffns, recording, set_gate
from cl_ac.efficiency.flops import relative_ffn_cost
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.routers import RouterTraining
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.kernels.experts import Experts


class Fixed(nn.Module):
    """A router that predicts the same for every token, for nothing."""

    def __init__(self, *predictions: float):
        super().__init__()
        self.register_buffer("predictions", torch.tensor(predictions))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.predictions.expand(*tokens.shape[:-1], -1)


def ffn(contributions: Sequence[float], neurons: int) -> DynamicFFN:
    """Experts of width 1 that each add a number, asked for up to the thresholds 1, 0.5 and 0.1."""
    up = torch.ones(3, neurons, 1)
    down = (torch.tensor(contributions) / neurons)[:, None, None].expand_as(up)
    return DynamicFFN(Experts(up, down), Fixed(1.0, 0.5, 0.1))


class Both(nn.Module):
    def __init__(self, a: DynamicFFN, b: DynamicFFN):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        return (torch.cat([self.a(tokens), self.b(tokens)], -1),)


TOKENS = [torch.ones(1, 1, 1)]


def counts(allocation: Allocation) -> tuple[int, ...]:
    """How many of the three experts run in `a` and in `b`."""
    return tuple(sum(threshold <= each for each in (1, 0.5, 0.1)) for threshold in allocation.thresholds.values())


def test_the_path_worked_by_hand():
    """Dense output (6, 3.3). Each raise saves 2 of 12 products; the errors are those of what is left out: 0.2 in b
    before 1 in a, then 0.3 in b before √(1² + 0.2²), then 1 and 3 in a beside the 0.3."""
    path = allocate_thresholds(Both(ffn((3, 2, 1), 1), ffn((3, 0.1, 0.2), 1)), TOKENS)
    assert [counts(step) for step in path] == [(3, 3), (3, 2), (3, 1), (2, 1), (1, 1)]
    assert [step.measured.cost for step in path] == pytest.approx([1, 10 / 12, 8 / 12, 6 / 12, 4 / 12])
    norm = (6**2 + 3.3**2) ** 0.5
    errors = [0, 0.2, 0.3, (1 + 0.09) ** 0.5, (9 + 0.09) ** 0.5]
    assert [step.measured.error * norm for step in path] == pytest.approx(errors, abs=1e-5)


def test_errors_are_weighed_by_what_is_saved():
    """a's experts are three times as large: leaving out 1 for 6 products beats 0.5 for 2, and then 0.5 for 2, where
    the error grows by √1.25 − 1, beats 2 more for 6."""
    path = allocate_thresholds(Both(ffn((3, 2, 1), 3), ffn((3, 2, 0.5), 1)), TOKENS)
    assert [counts(step) for step in path[:3]] == [(3, 3), (2, 3), (2, 2)]
    assert [step.measured.cost for step in path[:3]] == pytest.approx([1, 18 / 24, 16 / 24])


def test_the_path_ends_at_the_budget():
    told = []
    model = Both(ffn((3, 2, 1), 1), ffn((3, 0.1, 0.2), 1))
    path = allocate_thresholds(model, TOKENS, 0.7, lambda done, total: told.append((done, total)))
    assert [counts(step) for step in path] == [(3, 3), (3, 2), (3, 1)]
    assert told == [(1, 5), (2, 5), (3, 3)]


def test_the_first_step_within_a_budget_is_taken():
    path = [Allocation({"a": share}, Measured(cost, 0.0)) for share, cost in ((0.0, 1.0), (0.1, 0.8), (0.2, 0.3))]
    assert within(path, 0.8).gates == {"a": Gate("max", 0.1)}
    assert within(path, 0.79).gates == {"a": Gate("max", 0.2)}
    with pytest.raises(UserError, match=r"the budget is 0\.2; the cheapest that these experts can do is 0\.3"):
        within(path, 0.2)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Three blocks, of whose FFNs the second has next to nothing to say."""
    torch.manual_seed(0)
    backbone = nn.Sequential(*ViT((1, 8, 8), width=16, depth=3, heads=2).stages).eval()
    nn.init.normal_(backbone[2].mlp.down.weight, std=1e-4)
    settings = Conversion(4, router_width=8, tokens=408, router_training=RouterTraining(4, 64))
    return convert(backbone, [IMAGES], settings)


IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def measured(network: nn.Module, gates: Gate | dict[str, Gate]) -> Measured:
    with torch.no_grad():
        set_gate(network, Gate("all"))
        dense = network(IMAGES)
        set_gate(network, gates)
        with recording(network) as recordings:
            error = (network(IMAGES) - dense).norm() / dense.norm()
    return Measured(relative_ffn_cost(network, recordings), error.item())


def test_a_layer_that_says_little_is_cut_and_the_network_changes_less(network):
    network = copy.deepcopy(network)
    shared = measured(network, Gate("max", 0.5))
    path = allocate_thresholds(network, IMAGES.split(8), shared.cost)
    step = within(path, shared.cost)
    assert measured(network, step.gates) == pytest.approx(step.measured, rel=1e-4)
    assert step.measured.error < 0.9 * shared.error
    names = list(dynamic_ffns(network))
    assert step.thresholds[names[1]] == max(step.thresholds.values())


def test_no_inputs_are_one_sentence(network):
    with pytest.raises(ConfigurationError, match="there are no inputs to find a threshold on"):
        allocate_thresholds(copy.deepcopy(network), [])
