"""A feed-forward network (FFN) whose experts run only for tokens that need them.

Legend: D model width, E experts, M neurons per expert.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.efficiency.bundles import bundle_mask, bundled_ffn, bundled_weights
from cl_ac.efficiency.gates import Gate, highest_threshold
from cl_ac.efficiency.observation import call
from cl_ac.efficiency.padding import RealTokens
from cl_ac.efficiency.routers import empty_router, router_description
from cl_ac.errors import DataError
from cl_ac.kernels.cost import Usage, measured_usage
from cl_ac.kernels.experts import Experts, activate
from cl_ac.kernels.sparse_ffn import Backend, sparse_ffn


@dataclass
class Recording:
    """What the gate of one FFN decided.

    Padding is left out of all but `mask`; what is left of a padded batch is [tokens], else [...].

    Args:
        real: says which tokens are no padding.
        with_thresholds: keep `thresholds` too.
        counts: experts executed for each token, int16 [...], one tensor for each forward pass.
        load: tokens that asked for each expert [E].
        thresholds: up to which the max rule would execute each expert or bundle, fp32 [..., B], one tensor for each
            forward pass.
        mask: experts or bundles executed in the last forward pass [tokens, B], for padding too.
    """

    real: RealTokens
    with_thresholds: bool = False
    counts: list[Tensor] = field(default_factory=list)
    load: Tensor | None = None
    thresholds: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None

    def add(self, predictions: Tensor, asked: Tensor, executed: Tensor) -> None:
        """Notes one forward pass: predictions and asked-for experts [..., E], executed experts or bundles [..., B]."""
        size = asked.shape[-1] // executed.shape[-1]
        self.mask = executed.flatten(0, -2)
        predictions, asked, executed = map(self.real.only, (predictions, asked, executed))
        self.counts.append(executed.sum(-1, dtype=torch.int16) * size)
        load = asked.flatten(0, -2).sum(0)
        self.load = load if self.load is None else self.load + load
        if self.with_thresholds:
            self.thresholds.append(highest_threshold(predictions).unflatten(-1, (-1, size)).amax(-1))


class DynamicFFN(nn.Module):
    """An FFN as experts: a router predicts how much each has to say to a token, a gate chooses those that run.

    [..., D] to [..., D]. With the gate's rule `all` it is the dense FFN, and the router rests.

    Args:
        experts: the weights, copied into parameters.
        router: [..., D] to predictions [..., E].
        gate: may be exchanged at any time.
        dropout: share of the output that training zeroes.
        bundle: so many neighbouring experts are executed together wherever one of them is asked for.
        union: whether members of a bundle that were not asked for count too, which every backend can do; otherwise
            they are zeroed inside, and the result is that of the single experts.
        backend: as of `kernels.sparse_ffn`.
        hidden: neurons of the dense FFN, if rounding up to equal experts added some.
        hidden_dropout: share of the hidden neurons that training zeroes; it then computes all experts and leaves out
            what the mask excludes.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    gate_weight: Tensor | None
    gate_bias: Tensor | None

    def __init__(
        self,
        experts: Experts,
        router: nn.Module,
        gate: Gate = Gate(),
        dropout: float = 0.0,
        bundle: int = 1,
        union: bool = False,
        backend: Backend = "auto",
        hidden: int | None = None,
        hidden_dropout: float = 0.0,
    ):
        super().__init__()
        up, down, self.activation, up_bias, down_bias, gate_weight, gate_bias = experts
        weights = {"up": up, "down": down, "up_bias": up_bias, "down_bias": down_bias}
        for name, weight in {**weights, "gate_weight": gate_weight, "gate_bias": gate_bias}.items():
            parameter = None if weight is None else nn.Parameter(weight.detach().clone().contiguous())
            self.register_parameter(name, parameter)
        self.router, self.gate, self.dropout, self.hidden_dropout = router, gate, dropout, hidden_dropout
        self.bundle, self.union, self.backend = bundle, union, backend
        self.hidden = hidden or up.shape[0] * up.shape[1]
        self.usage: Usage | None = None
        self.recording: Recording | None = None

    @property
    def experts(self) -> Experts:
        """The weights."""
        biases = self.up_bias, self.down_bias
        return Experts(self.up, self.down, self.activation, *biases, self.gate_weight, self.gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.to(self.up.dtype)
        if self.gate.rule == "all":
            output = self.dense(inputs)
        else:
            predictions = self.router(inputs)
            output = self.run(inputs, predictions, self.gate.mask(predictions))
        return F.dropout(output, self.dropout, self.training).to(x.dtype)

    def run(self, x: Tensor, predictions: Tensor, mask: Tensor) -> Tensor:
        """The output [..., D] of the experts in `mask` [..., E]."""
        bundled = self.bundle > 1
        executed = bundle_mask(mask, self.bundle) if bundled else mask
        if self.recording is not None:
            self.recording.add(predictions, mask, executed)
        drops = self.training and self.hidden_dropout > 0
        if x.dtype == torch.float64 or drops:
            # The kernels stop at fp32, and know no dropout.
            counts = executed.repeat_interleave(self.bundle, -1) if bundled and self.union else mask
            return self.dense(x, counts)
        if bundled and not self.union:
            flat_mask = mask.reshape(-1, mask.shape[-1])
            return bundled_ffn(x.reshape(-1, x.shape[-1]), flat_mask, self.experts, self.bundle).view(x.shape)
        experts = bundled_weights(self.experts, self.bundle) if bundled else self.experts
        return sparse_ffn(x, executed, experts, self.backend, self.usage)

    def dense(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output [..., D] of all experts, or of those in `mask` [..., E], at the price of all."""
        flat = self.experts.flat()
        hidden = F.linear(x, flat.up, flat.up_bias)
        if flat.gate is None:
            hidden = activate(hidden, flat.activation)
        else:
            hidden = activate(F.linear(x, flat.gate, flat.gate_bias), flat.activation) * hidden
        if mask is not None:
            hidden = hidden.unflatten(-1, self.up.shape[:2]).masked_fill(~mask[..., None], 0).flatten(-2)
        hidden = F.dropout(hidden, self.hidden_dropout, self.training)
        return F.linear(hidden, flat.down.t(), flat.down_bias)

    def description(self) -> dict[str, Any]:
        """What it takes to build the same FFN without its weights, as plain values."""
        given = ("up_bias", "down_bias", "gate_weight", "gate_bias")
        return {
            "shape": list(self.up.shape),
            "activation": self.activation,
            "given": [name for name in given if getattr(self, name) is not None],
            "router": router_description(self.router),
            "gate": asdict(self.gate),
            "dropout": self.dropout,
            "hidden_dropout": self.hidden_dropout,
            "bundle": self.bundle,
            "union": self.union,
            "hidden": self.hidden,
        }

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> Self:
        """An FFN with the shapes of `description` and empty weights."""
        experts, neurons, width = description["shape"]
        sizes = {
            "up_bias": (experts, neurons),
            "down_bias": (width,),
            "gate_weight": (experts, neurons, width),
            "gate_bias": (experts, neurons),
        }
        optional = [torch.zeros(size) if name in description["given"] else None for name, size in sizes.items()]
        weights = torch.zeros(experts, neurons, width), torch.zeros(experts, neurons, width)
        made = Experts(*weights, description["activation"], *optional)
        options = {name: description[name] for name in ("dropout", "bundle", "union", "hidden")}
        # Files from before it was kept have none.
        options["hidden_dropout"] = description.get("hidden_dropout", 0.0)
        return cls(made, empty_router(description["router"], made), Gate(**description["gate"]), **options)


def dynamic_ffns(model: nn.Module) -> dict[str, DynamicFFN]:
    """All dynamic FFNs of `model` by their paths."""
    return {name: module for name, module in model.named_modules() if isinstance(module, DynamicFFN)}


def set_gate(model: nn.Module, gate: Gate | Mapping[str, Gate]) -> None:
    """Gives every dynamic FFN of `model` the same gate, or the one at its path."""
    for name, ffn in dynamic_ffns(model).items():
        ffn.gate, ffn.usage = gate if isinstance(gate, Gate) else gate[name], None


@contextmanager
def recording(model: nn.Module, with_thresholds: bool = False) -> Iterator[dict[str, Recording]]:
    """Records what the gates of `model` decide while the context is open, by the paths of its dynamic FFNs."""
    ffns, real = dynamic_ffns(model), RealTokens(model)
    recordings = {name: Recording(real, with_thresholds) for name in ffns}
    for name, ffn in ffns.items():
        ffn.recording = recordings[name]
    try:
        with real:
            yield recordings
    finally:
        for ffn in ffns.values():
            ffn.recording = None


@torch.no_grad()
def measure_usage(model: nn.Module, *inputs: Any) -> None:
    """Lets every dynamic FFN note how much a typical batch uses of its experts, which backend `auto` decides on.

    Needed on a GPU, where the masks of every batch cannot be read back, and again after each change of gates.

    Args:
        inputs: what the model is called with, or one mapping of its named arguments.
    """
    with recording(model) as recordings:
        call(model, inputs[0]) if len(inputs) == 1 else model(*inputs)
    for name, ffn in dynamic_ffns(model).items():
        if (mask := recordings[name].mask) is not None:
            ffn.usage = measured_usage(mask)


def descriptions(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What `insert_described` needs to give a fresh copy of the dense model the dynamic FFNs of `model`."""
    return {name: ffn.description() for name, ffn in dynamic_ffns(model).items()}


def insert_described(model: nn.Module, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts empty dynamic FFNs where `described` says; their weights come with the state of the model.

    Raises:
        DataError: if the model has no FFN at one of these places.
    """
    places = {feed_forward.entry_path: feed_forward for feed_forward in find_feed_forwards(model).values()}
    for path, description in described.items():
        if path not in places:
            raise DataError(f"the converted model has an FFN at '{path}', which {type(model).__name__} lacks")
        places[path].replace(model, DynamicFFN.described(description))


def usage_map(values: Tensor) -> Tensor:
    """Values of tokens [B, tokens, ...] as images [B, side, side, ...]; a class token in front is left out.

    Raises:
        ValueError: if the tokens, without a class token, are no square.
    """
    tokens = values.shape[1]
    for extra in (0, 1):
        side = round((tokens - extra) ** 0.5)
        if side and side * side == tokens - extra:
            return values[:, extra:].unflatten(1, (side, side))
    raise ValueError(f"{tokens} tokens are no square image, with or without a class token")
