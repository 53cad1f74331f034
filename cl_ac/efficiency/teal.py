"""Thresholds on activations, calibrated to a sparsity (TEAL: Liu et al., 2024, arXiv 2408.14690).

`layer_thresholds` gives one sparsity to all; `allocate` spends a block's sparsity where it costs least.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import find_feed_forwards, linear_weights
from cl_ac.efficiency.greedy import greedy
from cl_ac.efficiency.observation import observed
from cl_ac.efficiency.padding import RealTokens, last_real
from cl_ac.efficiency.router_free import Place, masked, showing
from cl_ac.efficiency.sparsity_rules import Threshold
from cl_ac.errors import ConfigurationError, unknown

# Float32 magnitudes order like their bits; without the last 13 they fall into 2^18 bins, each 0.1 % wide.
_DROPPED_BITS = 13


class MagnitudeHistogram:
    """Counts of magnitudes, as they stream by, for their quantiles to a relative precision of 2⁻¹⁰.

    Nothing is assumed of their range or distribution.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def update(self, values: Tensor) -> None:
        """Counts `values` of any shape."""
        codes = values.detach().float().abs().flatten().view(torch.int32) >> _DROPPED_BITS
        counts = torch.bincount(codes, minlength=1 << (31 - _DROPPED_BITS))
        self.counts = counts if self.counts is None else self.counts + counts

    def quantile(self, share: float) -> float:
        """The least threshold, up to the precision, that at least `share` of the magnitudes do not exceed.

        Raises:
            ConfigurationError: if nothing was counted, or `share` is no share.
        """
        if not 0 <= share <= 1:
            raise ConfigurationError(f"the sparsity is {share:g}; it must be a share from 0 to 1")
        if self.counts is None:
            raise ConfigurationError("the calibration data are empty")
        if share == 0:
            return 0.0
        reached = self.counts.cumsum(0) >= share * self.counts.sum().double()
        # The largest magnitude of the bin: all bits that were dropped are set.
        code = (int(reached.int().argmax()) << _DROPPED_BITS) | ((1 << _DROPPED_BITS) - 1)
        return float(torch.tensor(code, dtype=torch.int32).view(torch.float32))


Calibration = dict[str, dict[Place, MagnitudeHistogram]]


def calibrate(model: nn.Module, run: Callable[[Any], object]) -> Calibration:
    """Histograms of each tensor of each FFN of `model`, by the FFN's path.

    Args:
        run: sends the calibration data through the model.

    Raises:
        ConfigurationError: if the model has no FFN.
    """
    histograms: Calibration = {}

    def update(name: str, place: Place, values: Tensor) -> None:
        histograms.setdefault(name, {}).setdefault(place, MagnitudeHistogram()).update(values)

    with showing(model, update):
        run(model)
    return histograms


def thresholds(calibration: Calibration, share: float, places: Sequence[Place]) -> dict[str, dict[Place, Threshold]]:
    """Rules for `masked` that drop `share` of each of the tensors `places`, on the calibration data.

    Raises:
        ConfigurationError: if an FFN has no such tensor.
    """
    for name, tensors in calibration.items():
        for place in places:
            if place not in tensors:
                raise ConfigurationError(unknown(f"tensor of the feed-forward network '{name}'", place, tensors))
    return {
        name: {place: Threshold(tensors[place].quantile(share)) for place in places}
        for name, tensors in calibration.items()
    }


@dataclass(frozen=True)
class TealStep:
    """One step of the greedy allocation.

    Args:
        sparsity: of the whole block: the layers' mean, weighted by their number of weights.
        error: distance of the block's output to that of the dense block, as a share of the dense output's norm.
        layers: sparsity of each linear layer's input, by its path in the model.
    """

    sparsity: float
    error: float
    layers: dict[str, float]


@dataclass(frozen=True)
class TealAllocation:
    """How a block's sparsity is best spread over its linear layers.

    Args:
        steps: from dense on.
        histograms: of each linear layer's input, by its path in the model.
    """

    steps: list[TealStep]
    histograms: Mapping[str, MagnitudeHistogram]

    def thresholds(self, sparsity: float) -> dict[str, Threshold]:
        """Rules for the linear layers at the step nearest to `sparsity` of the block."""
        step = min(self.steps, key=lambda step: abs(step.sparsity - sparsity))
        return {path: Threshold(self.histograms[path].quantile(share)) for path, share in step.layers.items()}


def find_blocks(model: nn.Module) -> list[str]:
    """Paths of the transformer blocks: what holds each FFN."""
    paths = []
    for name, each in find_feed_forwards(model).items():
        path = name.rpartition(".")[0] if each.parts == ("",) else name
        paths += [path] if path not in paths else []
    return paths


def layer_thresholds(
    model: nn.Module, run: Callable[[Any], object], sparsity: float, blocks: Sequence[str] | None = None
) -> dict[str, Threshold]:
    """Thresholds that drop the same share of the input of every linear layer in the blocks of `model`, by its path."""
    layers = [path for block in blocks or find_blocks(model) for path in _linears(model, block)]
    with _counted_inputs(model, layers) as histograms:
        run(model)
    return {path: Threshold(histogram.quantile(sparsity)) for path, histogram in histograms.items()}


@torch.no_grad()
def allocate(
    model: nn.Module,
    block: str,
    run: Callable[[Any], object],
    step: float = 0.05,
    most: float = 0.9,
    tail: float = 0.25,
) -> TealAllocation:
    """TEAL's greedy allocation (algorithm 1): each step raises the sparsity of the layer that adds least error.

    A layer with few weights is raised further at once, so that every step drops equally many weights. Layers that the
    block does not call, such as the output layer inside `torch.nn.MultiheadAttention`, are left dense.

    Args:
        block: path of the block; `find_blocks` lists them.
        run: sends the calibration data through the model.
        step: by which a layer with the block's mean number of weights is raised.
        most: sparsity at which a layer stays.
        tail: share of each text's tokens, from the last, whose output counts; padding never does.

    Raises:
        ConfigurationError: if the block was not called, or calls no linear layer.
    """
    with _counted_inputs(model, _linears(model, block)) as counted:
        calls = _recorded_calls(model, block, run)
    module = model.get_submodule(block)
    prefix = f"{block}." if block else ""
    histograms = {path.removeprefix(prefix): histogram for path, histogram in counted.items()}
    if not histograms:
        raise ConfigurationError(f"the block '{block}' of {type(model).__name__} calls no linear layer")
    linears = {path: linear_weights(module.get_submodule(path)) for path in histograms}
    weights = {path: linear[0].numel() for path, linear in linears.items() if linear is not None}
    mean = sum(weights.values()) / len(weights)
    expected = [_tail(each.output, each.mask, tail) for each in calls]
    norm = torch.stack([output.float().square().sum() for output in expected]).sum()
    steps = []
    with masked(module, linears=dict.fromkeys(weights, Threshold(0.0)), backend="dense") as induced:

        def raised(path: str, share: float) -> float | None:
            return min(most, share + step * mean / weights[path]) if share < most else None

        def error(shares: Mapping[str, float]) -> float:
            for path, share in shares.items():
                induced.maskings[path].rules["input"] = Threshold(histograms[path].quantile(share))
            outputs = [_tail(module(*each.inputs, **each.named), each.mask, tail) for each in calls]
            pairs = zip(outputs, expected, strict=True)
            distance = torch.stack([(output - dense).float().square().sum() for output, dense in pairs]).sum()
            return float((distance / norm).sqrt())

        for shares, left in greedy(dict.fromkeys(weights, 0.0), raised, error, lambda now, then: then):
            sparsity = sum(shares[path] * weights[path] for path in weights) / sum(weights.values())
            steps.append(TealStep(sparsity, left, {prefix + path: share for path, share in shares.items()}))
    return TealAllocation(steps, counted)


def _linears(model: nn.Module, block: str) -> list[str]:
    """Paths of the linear layers in a block."""
    inside = model.get_submodule(block).named_modules(prefix=block)
    return [path for path, module in inside if linear_weights(module) is not None]


@contextmanager
def _counted_inputs(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, MagnitudeHistogram]]:
    """Histograms of the inputs, without padding, of those layers that are called while the context lasts."""
    histograms: dict[str, MagnitudeHistogram] = {}

    def count(path: str, values: Tensor, output: Any) -> None:
        histograms.setdefault(path, MagnitudeHistogram()).update(real.only(values))

    with RealTokens(model) as real, observed({path: model.get_submodule(path) for path in paths}, count):
        yield histograms


@dataclass(frozen=True)
class _Call:
    """A block's call: positional and named arguments, the output, and which tokens [B, T] are real (None: all)."""

    inputs: tuple
    named: dict[str, Any]
    output: Any
    mask: Tensor | None


def _recorded_calls(model: nn.Module, block: str, run: Callable[[Any], object]) -> list[_Call]:
    """Each call of a block while `run` runs; caches of earlier tokens are left out."""
    calls: list[_Call] = []

    def record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        # A cache would grow whenever the call is repeated.
        args = tuple(None if _is_cache(value) else value for value in args)
        kwargs = {name: None if _is_cache(value) else value for name, value in kwargs.items()}
        calls.append(_Call(args, kwargs, output, real.mask))

    with RealTokens(model) as real, model.get_submodule(block).register_forward_hook(record, with_kwargs=True):
        run(model)
    if not calls:
        raise ConfigurationError(f"the calibration data never reached the block '{block}' of {type(model).__name__}")
    return calls


def _is_cache(value: object) -> bool:
    return type(value).__name__.endswith("Cache")


def _tail(output: Any, mask: Tensor | None, share: float) -> Tensor:
    """The last real tokens of a block's output [B, T, D], which may come first in a tuple: [tokens, D]."""
    return last_real(output[0] if isinstance(output, tuple) else output, mask, share)
