"""Synaptic intelligence: parameters whose changes have lowered the loss are held back."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import flatten, protected
from cl_ac.importance.penalty import QuadraticPenalty
from cl_ac.losses import cross_entropy


class SI(Approach):
    """Synaptic intelligence (Zenke et al., 2017, eqs. 3–5): `+ strength · Σ_n Ω_n (θ_n − θ*_n)²`.

    Over a task, `ω = −Σ_steps g · Δθ` with g the gradient of the task loss alone, without penalty and before clipping,
    and Δθ what the optimiser really did, momentum and clipping included. Afterwards
    `Ω ← max(Ω + ω / ((θ_end − θ_start)² + damping), 0)`; below zero, which noisy gradients can bring about, the penalty
    would push away from θ* (the authors' code clamps too, FACIL's does not). Heads are never protected.

    The task loss is what is minimised: the weighted sum over exits. As ω is linear in g, its ω is the weighted sum
    of what the exits would have on their own, for the price of one backward pass. So there is one Ω, and its penalty
    comes with the final exit, whose weight is 1.

    Args:
        strength: c.
        damping: ξ, keeps parameters that hardly moved from dominating.
    """

    family = "regularisation"
    copes_with = frozenset({"repeated classes"})

    def __init__(self, strength: float = 0.1, damping: float = 0.1):
        super().__init__()
        if damping <= 0:
            raise ConfigurationError(f"approach.damping is {damping}; it must be above 0")
        self.strength, self.damping = strength, damping
        self.penalty = QuadraticPenalty()
        self.register_buffer("path", torch.empty(0))

    def begin_task(self, task, network, trainer) -> None:
        self.penalty.anchor_at(network)
        self.path = torch.zeros_like(self.penalty.anchor)
        if task.is_first:
            self.penalty.importance = torch.zeros_like(self.path)[None]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        aliases = {name: parameter.view_as(parameter) for name, parameter in protected(network).items()}
        self._watch(network, aliases)
        logits = functional_call(network, aliases, (batch.images,))
        loss = cross_entropy(logits, batch.targets, self.trained_classes(batch.task))
        loss.register_hook(self._keep_scale)
        penalty = self.strength * self.penalty(network)
        return loss + F.pad(penalty, (len(loss) - 1, 0))

    def _watch(self, network: ExitNetwork, aliases: dict[str, Tensor]) -> None:
        """Lets the coming backward pass leave the gradient of what is computed from `aliases` in `self.gradient`.

        The penalty is computed from the parameters themselves, and so stays out of it.
        """
        self.before = flatten(network).detach()
        self.gradient, self.scale = torch.zeros_like(self.before), torch.ones_like(self.before[:1])
        slots = self.gradient.split([alias.numel() for alias in aliases.values()])
        for alias, slot in zip(aliases.values(), slots, strict=True):

            def keep(gradient: Tensor, slot: Tensor = slot) -> None:
                slot.copy_(gradient.flatten())

            alias.register_hook(keep)

    def _keep_scale(self, gradient: Tensor) -> None:
        # The final exit's weight is 1: what arrives there is the scale of mixed-precision training.
        self.scale.copy_(gradient[-1:])

    def end_step(self, network: ExitNetwork) -> None:
        # Where the scaled gradient overflowed, the optimiser took no step.
        gradient = (self.gradient / self.scale).nan_to_num(0.0, 0.0, 0.0)
        self.path -= gradient * (flatten(network).detach() - self.before)

    def end_task(self, task, network, trainer) -> None:
        moved = flatten(network).detach() - self.penalty.anchor
        gained = self.path / (moved.square() + self.damping)
        self.penalty.importance = (self.penalty.importance + gained).clamp(min=0)
