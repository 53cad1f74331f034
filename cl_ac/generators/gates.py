"""Hidden units that only some classes use.

Shapes: B batch, C classes, L layers, W hidden units.
"""

import torch
from torch import Tensor

from cl_ac.data.growing import Growing
from cl_ac.generators.generator import class_weights


class ClassGates(Growing):
    """Switches off a random share of each layer's hidden units, other ones for each class (van de Ven et al., 2020).

    Of a sample that may be of several classes, a unit counts by the probability of the classes that leave it on.

    Args:
        layers: L.
        width: W.
        closed: share of the units that a class switches off; 0 leaves all as they are.
    """

    open: Tensor

    def __init__(self, layers: int, width: int, closed: float):
        super().__init__()
        self.closed = round(closed * width)
        self.register_buffer("open", torch.empty(0, layers, width))

    def __len__(self) -> int:
        """C."""
        return len(self.open)

    def grow(self, num_classes: int) -> None:
        """Draws what new classes switch off, from torch's global stream."""
        ranks = torch.rand(num_classes, *self.open.shape[1:]).argsort(-1).argsort(-1)
        self.open = torch.cat([self.open, (ranks >= self.closed).float().to(self.open.device)])

    def forward(self, hidden: Tensor, targets: Tensor, layer: int) -> Tensor:
        """What is left of hidden units [B, W] of the layer at index `layer`."""
        if not self.closed:
            return hidden
        gates = self.open[:, layer]
        return hidden * (class_weights(targets, len(self)) @ gates if targets.is_floating_point() else gates[targets])
