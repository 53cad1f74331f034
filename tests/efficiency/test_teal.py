"""Thresholds from streamed histograms, and the greedy allocation against its algorithm done by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cl_ac.backbones.vit import MLP
from cl_ac.efficiency.router_free import masked
from cl_ac.efficiency.sparsity_rules import Threshold
from cl_ac.efficiency.teal import MagnitudeHistogram, allocate, calibrate, find_blocks, layer_thresholds, thresholds
from cl_ac.errors import ConfigurationError


class Block(nn.Module):
    """A block that mixes tokens with one linear layer, then an FFN; takes a cache as Hugging Face's blocks do."""

    def __init__(self, width: int):
        super().__init__()
        self.mix, self.mlp = nn.Linear(width, width), MLP(width, 3 * width)
        self.unused = nn.Linear(width, width)

    def forward(self, hidden: Tensor, past: object = None) -> tuple[Tensor]:
        assert past is None
        hidden = hidden + self.mix(hidden.cumsum(1))
        return (hidden + self.mlp(hidden),)


class DynamicCache:
    pass


class Model(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)[0]
        return hidden


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval().requires_grad_(False)


@pytest.fixture
def batches() -> Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def run_on(batches: Tensor):
    return lambda model: [model(batch) for batch in batches]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1024, 1024, width=32), min_size=1, max_size=50).map(torch.tensor),
    st.sampled_from([0.01, 0.25, 0.5, 0.9, 1.0]),
)
def test_quantiles_of_a_stream(values: Tensor, share: float):
    histogram = MagnitudeHistogram()
    for part in values.split(7):
        histogram.update(part)
    threshold, magnitude = histogram.quantile(share), values.abs().double()
    assert (magnitude <= threshold).double().mean() >= share - 1e-9, "at least the share is dropped"
    exact = magnitude.sort().values[max(0, -int(-share * len(values) // 1) - 1)]
    assert threshold <= float(exact) * (1 + 2**-9) + 1e-38, "and no more than the precision adds"


def test_quantile_of_nothing_dropped_is_0():
    histogram = MagnitudeHistogram()
    histogram.update(torch.tensor([1e-3, 2.0]))
    assert histogram.quantile(0) == 0
    with pytest.raises(ConfigurationError, match="calibration data are empty"):
        MagnitudeHistogram().quantile(0.5)
    with pytest.raises(ConfigurationError, match="the sparsity is 2"):
        histogram.quantile(2)


def test_calibrated_thresholds_induce_the_sparsity(model, batches):
    run = run_on(batches)
    rules = thresholds(calibrate(model, run), 0.4, ["input"])
    assert list(rules) == ["blocks.0.mlp", "blocks.1.mlp"]
    with masked(model, {"blocks.0.mlp": rules["blocks.0.mlp"]}) as induced:
        run(model)
    assert induced.total() == pytest.approx(0.4, abs=0.005)


def test_blocks_and_their_layers(model, batches):
    assert find_blocks(model) == ["blocks.0", "blocks.1"]
    rules = layer_thresholds(model, run_on(batches), 0.3)
    layers = [f"blocks.{index}.{name}" for index in range(2) for name in ("mix", "mlp.up", "mlp.down")]
    assert list(rules) == layers, "without the layer that nothing calls"
    first = {path: rule for path, rule in rules.items() if path == "blocks.0.mix"}
    with masked(model, linears=first) as induced:
        run_on(batches)(model)
    assert induced.total() == pytest.approx(0.3, abs=0.005)


def test_allocation_is_greedy(model, batches):
    """Every step is checked against all alternatives, with thresholds and errors computed by other means."""
    allocation = allocate(model, "blocks.0", run_on(batches), step=0.3, most=0.9, tail=0.25)
    block, names = model.blocks[0], ["mix", "mlp.up", "mlp.down"]
    inputs = batches.flatten(0, 1)
    hidden = inputs + block.mix(inputs.cumsum(1))
    seen = {"mix": inputs.cumsum(1), "mlp.up": hidden, "mlp.down": block.mlp.activation(block.mlp.up(hidden))}
    dense = block(inputs)[0]

    def zeroed(name: str, values: Tensor, shares: dict[str, float]) -> Tensor:
        if shares[name] == 0:
            return values
        limit = seen[name].abs().flatten().sort().values[max(0, -int(-shares[name] * seen[name].numel() // 1) - 1)]
        return values * (values.abs() > limit * (1 + 1e-3))

    def error(shares: dict[str, float]) -> float:
        mixed = inputs + block.mix(zeroed("mix", inputs.cumsum(1), shares))
        inner = block.mlp.activation(block.mlp.up(zeroed("mlp.up", mixed, shares)))
        output = mixed + block.mlp.down(zeroed("mlp.down", inner, shares))
        return float((output - dense)[:, 6:].norm() / dense[:, 6:].norm())

    # 64 weights in mix and 192 in each of the others: the mean is 448 / 3.
    weights = {"mix": 64, "mlp.up": 192, "mlp.down": 192}
    shares = dict.fromkeys(names, 0.0)
    for step in allocation.steps[1:]:
        raised = {name: min(0.9, shares[name] + 0.3 * 448 / 3 / weights[name]) for name in names if shares[name] < 0.9}
        errors = {name: error({**shares, name: share}) for name, share in raised.items()}
        (chosen,) = [name for name in names if step.layers[f"blocks.0.{name}"] != shares[name]]
        assert errors[chosen] <= min(errors.values()) * 1.02
        assert step.error == pytest.approx(errors[chosen], rel=0.02)
        shares[chosen] = raised[chosen]
        assert step.layers == pytest.approx({f"blocks.0.{name}": share for name, share in shares.items()})
        assert step.sparsity == pytest.approx(sum(shares[name] * weights[name] for name in names) / 448)
    assert shares == pytest.approx(dict.fromkeys(names, 0.9))
    assert allocation.steps[0].sparsity == 0


def test_allocation_beats_equal_sparsity(model, batches):
    """Where one large layer does next to nothing, sparsity belongs there."""
    nn.init.normal_(model.blocks[1].mlp.down.weight, std=1e-4)
    run = run_on(batches)
    allocation = allocate(model, "blocks.1", run, step=0.1, tail=1.0)
    dense = torch.stack(run(model))

    def error(linears: dict[str, Threshold]) -> float:
        with masked(model, linears=linears):
            return float((torch.stack(run(model)) - dense).norm())

    chosen = allocation.thresholds(0.5)
    assert error(chosen) < 0.5 * error(layer_thresholds(model, run, 0.5, ["blocks.1"]))
    nearest = min(allocation.steps, key=lambda step: abs(step.sparsity - 0.5))
    assert nearest.layers["blocks.1.mlp.down"] > nearest.layers["blocks.1.mix"]
    assert set(chosen) == set(nearest.layers)


def test_repeated_calls_do_not_grow_a_cache(batches):
    torch.manual_seed(0)
    block = nn.ModuleDict({"block": Block(8)}).eval()
    block["block"].register_forward_pre_hook(
        lambda module, args, kwargs: (args, {}) if "past" in kwargs else None, with_kwargs=True
    )

    def run(model: nn.Module) -> None:
        model["block"](batches[0], past=DynamicCache())

    assert len(allocate(block, "block", run, step=0.9).steps) > 1


def test_a_block_that_is_never_called_is_one_sentence(model):
    with pytest.raises(ConfigurationError, match=r"never reached the block 'blocks\.0'"):
        allocate(model, "blocks.0", lambda model: None)


def test_thresholds_of_a_tensor_that_is_not_there_are_refused():
    calibration = {"block.mlp": {"hidden": MagnitudeHistogram()}}
    with pytest.raises(ConfigurationError, match=r"'block\.mlp' 'gate'; known: hidden"):
        thresholds(calibration, 0.5, ["gate"])
