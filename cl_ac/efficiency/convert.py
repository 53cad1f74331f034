"""From a dense transformer to dynamic-k experts (D2DMoE: Szatkowski et al., NeurIPS 2024, arXiv 2310.04361).

The activations should have been made sparse before (`efficiency.sparsify`). Legend: N tokens, D model width, E experts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import ADAPTERS, Adapter, FeedForward, evaluating, find_feed_forwards
from cl_ac.data.copying import copied
from cl_ac.data.seeding import generator
from cl_ac.efficiency.bundles import bundle_experts, check_bundle
from cl_ac.efficiency.dynamic import DynamicFFN
from cl_ac.efficiency.gates import Gate
from cl_ac.efficiency.observation import call, check_repeatable, observed
from cl_ac.efficiency.padding import RealTokens
from cl_ac.efficiency.routers import CHUNK, RouterKind, RouterTraining, expert_norms, fitted_router, norm_factors
from cl_ac.efficiency.split import coactivation_split, expert_weights, experts_of_size, kmeans_split, random_split
from cl_ac.errors import ConfigurationError
from cl_ac.kernels.experts import Experts, hidden_neurons
from cl_ac.kernels.gate import max_rule

Model = TypeVar("Model", bound=nn.Module)

Split = Literal["kmeans", "coactivation", "random"]


@dataclass(frozen=True)
class Conversion:
    """How dense feed-forward networks (FFNs) become experts.

    Args:
        size: neurons of each expert.
        split: which neurons go together: those with similar weights, those active on the same tokens, or any.
        router: what predicts which experts matter: `norm` learns the norms of their outputs (D2DMoE), `moefication`
            their summed activations, `similarity` compares inputs with centroids, `oracle` knows the norms.
        router_width: of the hidden layers of `norm`.
        router_depth: linear layers of `norm`.
        gate: which experts run; may be changed later.
        tokens: on which each router is trained.
        router_training: how routers learn.
        bundle: so many experts are executed together, a power of two; 1 executes each alone.
        union: whether all members of a bundle count where one is asked for.
    """

    size: int = 24
    split: Split = "kmeans"
    router: RouterKind = "norm"
    router_width: int = 128
    router_depth: int = 2
    gate: Gate = Gate()
    tokens: int = 32768
    router_training: RouterTraining = RouterTraining()
    bundle: int = 1
    union: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("split", self.split, Split), ("router", self.router, RouterKind)):
            if value not in get_args(known):
                raise ConfigurationError(f"experts.{name} is '{value}'; it must be one of {', '.join(get_args(known))}")
        for name in ("size", "router_width", "router_depth", "tokens", "bundle"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"experts.{name} is {getattr(self, name)}; it must be at least 1")


def moefication(size: int = 24, tokens: int = 32768, top_k: int = 1) -> Conversion:
    """The settings of MoEfication (Zhang et al., 2022): co-activation graph, classifying router, k experts each."""
    training = RouterTraining(epochs=30, batch_size=512, lr=1e-2)
    return Conversion(
        size, "coactivation", "moefication", gate=Gate("top_k", top_k), tokens=tokens, router_training=training
    )


@torch.no_grad()
def convert(
    model: Model,
    inputs: Iterable[Any],
    settings: Conversion = Conversion(),
    seed: int = 0,
    adapters: Sequence[Adapter] = ADAPTERS,
    on_layer: Callable[[int, int], None] | None = None,
) -> Model:
    """A copy of `model` with dynamic FFNs in place of all that `find_feed_forwards` finds.

    Each FFN is split, and its router trained on what enters the FFN in the dense model: inputs are computed once, and
    no epoch runs the model.

    Args:
        inputs: batches to calibrate on, gone through once per FFN until `tokens` tokens are there; a mapping is handed
            to the model as keyword arguments, and tokens at which its `attention_mask` [B, T] is 0 do not count.
        seed: of the split and the routers.
        on_layer: called with the FFNs done and all FFNs, after each.

    Raises:
        ConfigurationError: if there is no FFN, no token, or settings that do not fit the FFNs.
    """
    check_repeatable(inputs)
    model = copied(model)
    found = find_feed_forwards(model, adapters)
    if not found:
        raise ConfigurationError(f"{type(model).__name__} has no feed-forward network of a transformer to convert")
    check_sizes(found.values(), settings)
    replacements = []
    with evaluating(model):
        for index, feed_forward in enumerate(found.values()):
            calibration = entering(model, feed_forward.entry, inputs, settings.tokens)
            replacements.append(dynamic_ffn(feed_forward, calibration, settings, seed, index))
            if on_layer:
                on_layer(index + 1, len(found))
    for feed_forward, replacement in zip(found.values(), replacements, strict=True):
        feed_forward.replace(model, replacement)
    return model


def check_sizes(feed_forwards: Iterable[FeedForward], settings: Conversion) -> None:
    """Raises a `ConfigurationError` if the sizes of experts and bundles do not fit one of the FFNs."""
    for each in feed_forwards:
        check_bundle(experts_of_size(each.hidden, settings.size), settings.bundle)


def entering(model: nn.Module, entry: nn.Module, inputs: Iterable[Any], tokens: int) -> Tensor:
    """The first `tokens` vectors that enter a module of `model`, without those of padding: [N, D].

    Raises:
        ConfigurationError: if there is none.
    """
    caught: list[Tensor] = []

    def catch(name: str, values: Tensor, output: Any) -> None:
        caught.append(real.only(values.detach()).flatten(0, -2))

    with RealTokens(model) as real, observed({"": entry}, catch):
        for batch in inputs:
            if sum(map(len, caught)) >= tokens:
                break
            call(model, batch)
    if not any(map(len, caught)):
        raise ConfigurationError("there are no inputs to calibrate on, or no token reaches the feed-forward network")
    return torch.cat(caught)[:tokens]


def dynamic_ffn(
    feed_forward: FeedForward, inputs: Tensor, settings: Conversion, seed: int = 0, index: int = 0
) -> DynamicFFN:
    """The dynamic FFN that replaces `feed_forward`, on its device.

    Args:
        inputs: what enters it on calibration data [N, D].
        index: tells the random streams of different FFNs apart.
    """
    split = neurons_of_experts(feed_forward, inputs, settings, generator(seed, "expert split", index))
    experts = expert_weights(feed_forward, split)
    if settings.bundle > 1:
        order = bundle_experts(needed(inputs, experts, settings.gate), settings.bundle).flatten()
        experts = expert_weights(feed_forward, split[order])
    with torch.enable_grad():
        router = fitted_router(
            settings.router,
            experts,
            inputs,
            settings.router_width,
            settings.router_depth,
            settings.router_training,
            generator(seed, "router", index),
        )
    return DynamicFFN(
        experts,
        router.to(experts.up.dtype),
        settings.gate,
        feed_forward.dropout,
        settings.bundle,
        settings.union,
        hidden=feed_forward.hidden,
        hidden_dropout=feed_forward.hidden_dropout,
    )


def neurons_of_experts(
    feed_forward: FeedForward, inputs: Tensor, settings: Conversion, stream: torch.Generator
) -> Tensor:
    """The split that the settings ask for [E, M]."""
    experts = experts_of_size(feed_forward.hidden, settings.size)
    if settings.split == "random":
        return random_split(feed_forward.hidden, experts, stream)
    if settings.split == "kmeans":
        rows = feed_forward.up if feed_forward.gate is None else feed_forward.gate
        return kmeans_split(rows, experts, stream)
    whole = expert_weights(feed_forward, torch.arange(feed_forward.hidden)[None])
    return coactivation_split(hidden_neurons(inputs, whole.flat()), experts, stream)


def needed(inputs: Tensor, experts: Experts, gate: Gate) -> Tensor:
    """Which experts a perfect router would choose for calibration inputs [N, D]: bool [N, E]."""
    factors = norm_factors(experts)
    norms = torch.cat([expert_norms(part, experts, factors) for part in inputs.split(CHUNK)])
    return max_rule(norms.float(), 0.01) if gate.rule == "all" else gate.mask(norms)
