"""The network as it was after the previous task."""

import torch
from torch import Tensor, nn

from cl_ac.network import ExitNetwork


class Teacher(nn.Module):
    """A frozen copy of a network that is asked for its logits; empty until `update` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.network: ExitNetwork | None = None

    def update(self, network: ExitNetwork) -> None:
        """Takes a deep copy of `network` as it is now."""
        self.network = network.frozen_copy()

    def train(self, mode: bool = True) -> "Teacher":
        """Does nothing: a teacher never trains."""
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits [E, B, C_old] of the copy."""
        return self.network(images)
