"""What it costs to move the backbone's parameters.

Shapes: E exits, P backbone parameters.
"""

import torch
from torch import Tensor

from cl_ac.data.growing import Growing
from cl_ac.importance.gradients import flatten
from cl_ac.network import ExitNetwork


class QuadraticPenalty(Growing):
    """`Σ_n Ω_n (θ_n − θ*_n)²` for each exit: its own importance Ω, one anchor θ* for all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("importance", torch.empty(0, 0))
        self.register_buffer("anchor", torch.empty(0))

    def anchor_at(self, network: ExitNetwork) -> None:
        """Makes the present parameters the ones to stay close to."""
        self.anchor = flatten(network).detach().clone()

    def fuse(self, importance: Tensor, keep: float, add: float | None = None) -> None:
        """`Ω ← keep · Ω + add · importance` [E, P]; before the first task Ω is 0.

        Args:
            add: by default `1 − keep`.
        """
        old = keep * self.importance if self.importance.numel() else torch.zeros_like(importance)
        self.importance = old + (1 - keep if add is None else add) * importance

    def forward(self, network: ExitNetwork) -> Tensor:
        """[E]."""
        moved = flatten(network) - self.anchor
        # In float32 under autocast too: squares of small moves vanish in half precision.
        with torch.autocast(moved.device.type, enabled=False):
            return torch.mv(self.importance, moved.float().square())
