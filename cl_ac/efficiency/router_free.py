"""Activation sparsity without a router: rules zero small entries of a model's tensors as they are computed.

The tensors of an FFN `down · (act(gate · x) * (up · x))`, or `down · act(up · x)` without a gate, are its `input` x,
the output of `up`, the activated `gate`, and the `intermediate` that `down` reads (arXiv 2509.00454). Besides, any
linear layer's input can be masked, as TEAL does (arXiv 2408.14690).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import FeedForward, find_feed_forwards, linear_weights
from cl_ac.efficiency.padding import RealTokens
from cl_ac.efficiency.sparsity_rules import SparsityRule
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.kernels.sparse_linear import Backend, sparse_linear

Place = Literal["input", "up", "gate", "intermediate"]
# The rules of every FFN's tensors, or those of each FFN by its name.
Rules = Mapping[Place, SparsityRule] | Mapping[str, Mapping[Place, SparsityRule]]


class Masking(nn.Module):
    """Looks at tensors, masks them by rules, and counts what the masks drop.

    Args:
        rules: by tensor.
        device: where counts accumulate, so that no call waits for them.
        watch: called with the name of each tensor and its values, before they are masked.
        backend: of `kernels.sparse_linear`.
    """

    def __init__(
        self,
        rules: Mapping[Place, SparsityRule],
        device: torch.device,
        watch: Callable[[Place, Tensor], None] | None = None,
        backend: Backend = "auto",
    ):
        super().__init__()
        self.rules, self.watch, self.backend = dict(rules), watch, backend
        # Dropped entries, and all.
        self.counts = {place: torch.zeros(2, dtype=torch.int64, device=device) for place in rules}
        # Says which tokens are no padding, once the module is in its place.
        self.real: RealTokens | None = None

    def keep(self, place: Place, values: Tensor) -> Tensor | None:
        """The mask [..., K] of the entries to keep, or None if the tensor has no rule.

        Args:
            values: [..., K].
        """
        real = None if self.real is None else self.real.of(values)
        if self.watch is not None:
            self.watch(place, values if real is None else values[real])
        if place not in self.rules:
            return None
        kept = self.rules[place](values)
        if real is None:
            dropped, total = (~kept).sum(), torch.full((), kept.numel(), device=kept.device)
        else:
            dropped, total = (~kept & real[..., None]).sum(), real.sum() * kept.shape[-1]
        self.counts[place] += torch.stack([dropped, total])
        return kept

    def product(
        self, values: Tensor, kept: Tensor | None, weight: Tensor, rows: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """`weight · (values * kept) + bias`, without reading what no token needs, where that pays.

        Args:
            values: [..., K].
            kept: [..., K], bool; None for all.
            weight: [D, K].
            rows: its transpose, contiguous, if that is at hand; used if there is a mask.
            bias: [D] or None.
        """
        if kept is None:
            return F.linear(values, weight, bias)
        rows = weight.t().contiguous() if rows is None else rows
        # Under autocast values may be narrower than the weights, which the kernels do not mix.
        return sparse_linear(values.to(rows.dtype), kept, rows, bias, self.backend)


class MaskedFeedForward(Masking):
    """An FFN with rules on its tensors: [..., D] to [..., D], for inference.

    Args:
        described: the FFN.
        rules: by tensor.
        watch: as of `Masking`.
        backend: as of `Masking`.
    """

    def __init__(
        self,
        described: FeedForward,
        rules: Mapping[Place, SparsityRule],
        watch: Callable[[Place, Tensor], None] | None = None,
        backend: Backend = "auto",
    ):
        super().__init__(rules, described.up.device, watch, backend)
        places = ("input", "up", "intermediate") if described.gate is None else ("input", "up", "gate", "intermediate")
        for place in rules:
            if place not in places:
                raise ConfigurationError(unknown(f"tensor of the FFN '{described.name}'", place, places))
        self.described = described
        # Looked up now: in the model, this module may stand where the activation stood. Kept out of the submodules.
        self.activation = (described.activation_module,)
        reads_input, reads_hidden = "input" in rules, bool(rules.keys() - {"input"})
        self.up_rows = described.up.t().contiguous() if reads_input else None
        self.gate_rows = described.gate.t().contiguous() if reads_input and described.gate is not None else None
        self.down_rows = described.down.t().contiguous() if reads_hidden else None

    def forward(self, tokens: Tensor) -> Tensor:
        ffn, (activation,) = self.described, self.activation
        keep_input = self.keep("input", tokens)
        hidden = self.product(tokens, keep_input, ffn.up, self.up_rows, ffn.up_bias)
        kept = self.keep("up", hidden)
        hidden = _zeroed(hidden, kept)
        if ffn.gate is None:
            # What was dropped before the activation may not be 0 after it.
            hidden, kept = activation(hidden), None
        else:
            gate = self.product(tokens, keep_input, ffn.gate, self.gate_rows, ffn.gate_bias)
            gate = activation(gate)
            keep_gate = self.keep("gate", gate)
            hidden = hidden * _zeroed(gate, keep_gate)
            kept = _both(kept, keep_gate)
        kept = _both(kept, self.keep("intermediate", hidden))
        return self.product(hidden, kept, ffn.down, self.down_rows, ffn.down_bias)


class MaskedLinear(Masking):
    """A linear layer with a rule on its input: [..., K] to [..., D], for inference.

    Args:
        layer: a Linear, or Hugging Face's Conv1D.
        rule: on the input.
        backend: as of `Masking`.
    """

    def __init__(self, layer: nn.Module, rule: SparsityRule, backend: Backend = "auto"):
        weight, bias = linear_weights(layer)
        super().__init__({"input": rule}, weight.device, None, backend)
        self.matrix, self.bias, self.rows = weight, bias, weight.t().contiguous()

    def forward(self, values: Tensor) -> Tensor:
        return self.product(values, self.keep("input", values), self.matrix, self.rows, self.bias)


def _zeroed(values: Tensor, kept: Tensor | None) -> Tensor:
    return values if kept is None else values.masked_fill(~kept, 0)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


@dataclass(frozen=True)
class InducedSparsity:
    """What rules have dropped since they were put in place.

    Args:
        maskings: the modules that hold the rules, by path.
    """

    maskings: Mapping[str, Masking]

    def shares(self) -> dict[str, dict[Place, float]]:
        """Dropped share of the entries of each masked tensor, by path; NaN where nothing ran."""
        return {
            path: {place: _share(count) for place, count in each.counts.items()} for path, each in self.maskings.items()
        }

    def total(self) -> float:
        """Dropped share of all entries of all masked tensors: the mean of their shares, weighted by width."""
        counts = [count.cpu() for each in self.maskings.values() for count in each.counts.values()]
        return _share(sum(counts, torch.zeros(2, dtype=torch.int64)))


def _share(count: Tensor) -> float:
    dropped, total = count.tolist()
    return dropped / total if total else float("nan")


@contextmanager
def masked(
    model: nn.Module,
    rules: Rules | None = None,
    linears: Mapping[str, SparsityRule] | None = None,
    backend: Backend = "auto",
) -> Iterator[InducedSparsity]:
    """Masks tensors of `model` as long as the context lasts, and counts what the masks drop.

    Tokens of padding do not count if the model is called with the keyword `attention_mask` [B, T], as Hugging Face's
    are. The model is for inference meanwhile: masked layers get no gradient and have no dropout inside.

    Args:
        rules: for every FFN alike by tensor, or by the FFN's path and tensor.
        linears: for the inputs of linear layers, by path.
        backend: of `kernels.sparse_linear`; all give the same result.

    Raises:
        ConfigurationError: if there is no such FFN, tensor or linear layer, or a linear layer is part of a masked FFN.
    """
    maskings: dict[str, Masking] = {}
    replacements: dict[str, nn.Module] = {}
    for each in _ruled(model, rules or {}):
        maskings[each[0].name] = MaskedFeedForward(*each, backend=backend)
        replacements |= _replacements(each[0], maskings[each[0].name])
    for path, rule in (linears or {}).items():
        modules = dict(model.named_modules())
        if path not in modules or linear_weights(modules[path]) is None:
            known = [name for name, module in modules.items() if linear_weights(module) is not None]
            raise ConfigurationError(unknown(f"linear layer of the model {type(model).__name__}", path, known))
        if any(path.startswith(f"{outer}.") or path == outer for outer in replacements):
            raise ConfigurationError(f"the linear layer '{path}' is part of an FFN that has rules of its own")
        maskings[path] = replacements[path] = MaskedLinear(modules[path], rule, backend)
    with _in_place(model, replacements):
        yield InducedSparsity(maskings)


def _ruled(model: nn.Module, rules: Rules) -> list[tuple[FeedForward, Mapping[Place, SparsityRule]]]:
    """The FFNs that have rules, with those."""
    if not rules:
        return []
    found = _feed_forwards(model)
    if not any(isinstance(rule, Mapping) for rule in rules.values()):
        return [(each, rules) for each in found.values()]
    for name in rules:
        if name not in found:
            raise ConfigurationError(unknown(f"FFN of the model {type(model).__name__}", name, found))
    return [(found[name], own) for name, own in rules.items()]


def _feed_forwards(model: nn.Module) -> dict[str, FeedForward]:
    found = find_feed_forwards(model)
    if not found:
        raise ConfigurationError(f"the model {type(model).__name__} has no feed-forward network of a transformer")
    return found


@contextmanager
def showing(model: nn.Module, watch: Callable[[str, Place, Tensor], None]) -> Iterator[None]:
    """Shows `watch` each tensor of each FFN when it is computed: the FFN's path, the tensor's name, values [..., K].

    Tokens of padding are left out as in `masked`; then the values are [tokens, K].

    Raises:
        ConfigurationError: if the model has no FFN.
    """

    def watch_of(name: str) -> Callable[[Place, Tensor], None]:
        return lambda place, values: watch(name, place, values)

    replacements: dict[str, nn.Module] = {}
    for name, each in _feed_forwards(model).items():
        replacements |= _replacements(each, MaskedFeedForward(each, {}, watch_of(name)))
    with _in_place(model, replacements):
        yield


def _replacements(described: FeedForward, replacement: nn.Module) -> dict[str, nn.Module]:
    """What stands where the parts of an FFN stood."""
    first, *rest = described.paths
    return {first: replacement, **{path: nn.Identity() for path in rest}}


@contextmanager
def _in_place(model: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Puts modules into `model`, tells them which tokens are padding, and puts the model's own modules back."""
    originals = {path: model.get_submodule(path) for path in replacements}
    real = RealTokens(model)
    try:
        for path, module in replacements.items():
            model.set_submodule(path, module.train(originals[path].training))
            if isinstance(module, Masking):
                module.real = real
        with real:
            yield
    finally:
        for path, module in originals.items():
            model.set_submodule(path, module)
