"""Routers: what predicts, from an FFN's input, how much each of its experts has to say.

Legend: N tokens, D model width, E experts, M neurons per expert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError
from cl_ac.kernels.experts import Experts, hidden_neurons

RouterKind = Literal["norm", "moefication", "similarity", "oracle"]
# Tokens whose hidden activations are held at once where targets are computed.
CHUNK = 4096


def norm_factors(experts: Experts) -> Tensor:
    """Triangular R_i [E, min(M, D), M] with `‖E_i(x)‖ = ‖R_i h_i‖`, from `down_iᵀ = Q_i R_i`."""
    down = experts.down.transpose(1, 2)
    return torch.linalg.qr(down if down.dtype == torch.float64 else down.float(), mode="r").R


def expert_norms(x: Tensor, experts: Experts, factors: Tensor | None = None) -> Tensor:
    """`‖E_i(x)‖₂`, the norm of each expert's output without the output bias (D2DMoE, section 3.2).

    The factors make it cost M per neuron instead of D, and need memory for hidden activations only.

    Args:
        x: [..., D].
        factors: `norm_factors(experts)`, if they are at hand.

    Returns:
        [..., E], fp32 (fp64 for fp64 experts).
    """
    factors = norm_factors(experts) if factors is None else factors
    hidden = hidden_neurons(x.flatten(0, -2), experts.flat()).unflatten(-1, experts.up.shape[:2])  # [N, E, M]
    outputs = torch.einsum("nem,ekm->nek", hidden.to(factors.dtype), factors)
    return outputs.norm(dim=-1).view(*x.shape[:-1], len(experts.up))


def activation_sums(x: Tensor, experts: Experts) -> Tensor:
    """The positive activations of each expert, summed (MoEfication, section 3.2): x [..., D] to [..., E], fp32."""
    hidden = hidden_neurons(x.flatten(0, -2), experts.flat()).unflatten(-1, experts.up.shape[:2])
    return hidden.float().relu().sum(-1).view(*x.shape[:-1], len(experts.up))


def centroids(experts: Experts) -> Tensor:
    """The mean direction of each expert's neurons, of the gate in a GLU: [E, D]."""
    rows = experts.up if experts.gate is None else experts.gate
    return F.normalize(rows.float(), dim=-1).mean(1)


class NormRouter(nn.Module):
    """Predicts the norms of the experts' outputs with ReLU inside, absolute values at the end and no biases (D2DMoE).

    Args:
        width: D.
        experts: E.
        hidden: width of the hidden layers.
        depth: linear layers, at least 1.
        generator: of the initial weights, of the CPU.
    """

    def __init__(self, width: int, experts: int, hidden: int, depth: int, generator: torch.Generator):
        super().__init__()
        if hidden < 1 or depth < 1:
            raise ConfigurationError(
                f"experts.router_width is {hidden} and experts.router_depth {depth}; both must be at least 1"
            )
        sizes = [width, *[hidden] * (depth - 1), experts]
        layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x).abs()


class ActivationRouter(nn.Module):
    """Ranks experts by their summed activations (MoEfication): `W₂ tanh(W₁ x / ‖x‖)`, from centroids and the identity.

    Args:
        start: `centroids` of the experts [E, D].
    """

    def __init__(self, start: Tensor):
        super().__init__()
        self.first = nn.Parameter(start.clone())
        self.second = nn.Parameter(torch.eye(len(start), device=start.device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(F.normalize(x, dim=-1), self.first).tanh(), self.second)


class SimilarityRouter(nn.Module):
    """Ranks experts by the cosine between the input and their centroids (MoEfication); learns nothing.

    Args:
        directions: `centroids` of the experts [E, D].
    """

    directions: Tensor

    def __init__(self, directions: Tensor):
        super().__init__()
        self.register_buffer("directions", F.normalize(directions, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), self.directions)


class OracleRouter(nn.Module):
    """The true norms of the experts' outputs: the bound for all routers, dearer than the FFN itself.

    Args:
        experts: whose norms; copied, since a reference must not follow them elsewhere.
    """

    up: Tensor
    up_bias: Tensor | None
    gate: Tensor | None
    gate_bias: Tensor | None
    factors: Tensor

    def __init__(self, experts: Experts):
        super().__init__()
        self.activation = experts.activation
        for name in ("up", "up_bias", "gate", "gate_bias"):
            weight = getattr(experts, name)
            self.register_buffer(name, None if weight is None else weight.detach().clone())
        self.register_buffer("factors", norm_factors(experts))

    def forward(self, x: Tensor) -> Tensor:
        # The output weights are in the factors.
        experts = Experts(self.up, self.up, self.activation, self.up_bias, None, self.gate, self.gate_bias)
        return expert_norms(x, experts, self.factors)


@dataclass(frozen=True)
class RouterTraining:
    """How routers learn, from inputs and targets that were computed once.

    Args:
        epochs: over the cached tokens.
        batch_size: tokens per step.
        lr: learning rate of AdamW at the start; a cosine lowers it to 1e-6.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        scale_free: whether norms are learned relative to the largest of their token, all that the max rule looks at.
    """

    epochs: int = 20
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 1.0
    scale_free: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.lr <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ConfigurationError(
                f"experts.router_training has epochs {self.epochs}, batch_size {self.batch_size}, lr {self.lr:g}, clip "
                f"{self.clip:g} and weight_decay {self.weight_decay:g}; weight_decay must be at least 0, the others "
                "above 0, epochs and batch_size at least 1"
            )


def norm_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Squared error, averaged over tokens and experts."""
    return F.mse_loss(predictions.float(), targets)


def activation_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the sigmoid of predictions against sums relative to the batch's largest."""
    return F.binary_cross_entropy_with_logits(predictions.float(), targets / targets.max().clamp(min=1e-12))


def train_router(
    router: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    training: RouterTraining,
    generator: torch.Generator,
) -> float:
    """Fits a router to cached inputs [N, D] and targets [N, E] on their device, in fp32.

    Args:
        generator: of the order of tokens, of the CPU.

    Returns:
        the mean loss of the last epoch.
    """
    router.train()
    optimizer = torch.optim.AdamW(router.parameters(), training.lr, weight_decay=training.weight_decay)
    steps = -(-len(inputs) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs * steps, 1e-6)
    total = torch.zeros((), device=inputs.device)
    for _ in range(training.epochs):
        total.zero_()
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        for chosen in order.split(training.batch_size):
            value = loss(router(inputs[chosen].float()), targets[chosen])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(router.parameters(), training.clip)
            optimizer.step()
            schedule.step()
            total += value.detach()
    router.eval()
    return total.item() / steps


def fitted_router(
    kind: RouterKind,
    experts: Experts,
    inputs: Tensor,
    hidden: int,
    depth: int,
    training: RouterTraining,
    generator: torch.Generator,
) -> nn.Module:
    """A router for `experts`, trained on the inputs [N, D] of their FFN where its kind learns.

    Args:
        hidden: width of the router's hidden layers; only of `norm`, as is `depth`.
    """
    if kind == "oracle":
        return OracleRouter(experts)
    if kind == "similarity":
        return SimilarityRouter(centroids(experts))
    with torch.no_grad():
        if kind == "norm":
            factors = norm_factors(experts)
            targets = torch.cat([expert_norms(part, experts, factors) for part in inputs.split(CHUNK)]).float()
            if training.scale_free:
                targets /= targets.amax(-1, keepdim=True).clamp(min=1e-12)
        else:
            targets = torch.cat([activation_sums(part, experts) for part in inputs.split(CHUNK)])
    if kind == "norm":
        router: nn.Module = NormRouter(inputs.shape[1], len(experts.up), hidden, depth, generator).to(inputs.device)
        train_router(router, inputs, targets, norm_loss, training, generator)
    else:
        router = ActivationRouter(centroids(experts))
        train_router(router, inputs, targets, activation_loss, training, generator)
    return router


def router_description(router: nn.Module) -> dict[str, Any]:
    """What `empty_router` needs to build the same router without its weights, as plain values."""
    kinds = {ActivationRouter: "moefication", SimilarityRouter: "similarity", OracleRouter: "oracle"}
    if isinstance(router, NormRouter):
        depth = len(router.layers)
        return {"kind": "norm", "hidden": router.layers[0].out_features if depth > 1 else 1, "depth": depth}
    if type(router) not in kinds:
        raise TypeError(f"{type(router).__name__} is no router of this module, so it cannot be described")
    return {"kind": kinds[type(router)]}


def empty_router(description: Mapping[str, Any], experts: Experts) -> nn.Module:
    """A router for the shapes of `experts` that waits for its weights."""
    count, _, width = experts.up.shape
    kind = description["kind"]
    if kind == "norm":
        return NormRouter(width, count, description["hidden"], description["depth"], torch.Generator())
    if kind == "oracle":
        return OracleRouter(experts)
    return {"moefication": ActivationRouter, "similarity": SimilarityRouter}[kind](experts.up.new_zeros(count, width))
