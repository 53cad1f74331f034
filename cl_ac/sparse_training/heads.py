"""Classifiers whose rows are sparse, new ones too.

Shapes: C classes seen so far, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.heads import GrowingLinear
from cl_ac.sparse_training.orthogonal import fewest, sparse_orthogonal


class SparseLinear(GrowingLinear):
    """A linear classifier whose rows keep a share of their weights; others are zero and never learn.

    Args:
        in_features: D.
        density: share of the weights that new rows keep.
        gain: length of the new rows of a task, which are orthogonal to each other; None for rows as of any linear
            classifier, masked.
    """

    old_mask: Tensor
    new_mask: Tensor

    def __init__(self, in_features: int, density: float, gain: float | None):
        super().__init__(in_features)
        self.density, self.gain = density, gain
        for name in ("old_mask", "new_mask"):
            self.register_buffer(name, torch.empty(0, in_features, dtype=torch.bool))

    @torch.no_grad()
    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        super().grow(num_classes, generator)
        rows, features = self.new_weight, self.in_features
        count = max(round(self.density * rows.numel()), fewest(num_classes, features))
        drawn = sparse_orthogonal(num_classes, features, count, generator).to(rows.device)
        self.old_mask, self.new_mask = self.mask, drawn != 0
        if self.gain is not None:
            rows.copy_(self.gain * drawn)
        self._clear()

    def reset(self, generator: torch.Generator) -> None:
        """Draws the values of all rows anew, where their masks let them be."""
        super().reset(generator)
        self._clear()

    def widen(self, in_features: int, generator: torch.Generator) -> None:
        """Adds columns, of which the same share is kept at random places."""
        super().widen(in_features, generator)
        for name in ("old_mask", "new_mask"):
            mask = getattr(self, name)
            drawn = torch.rand(len(mask), in_features - mask.shape[1], generator=generator) < self.density
            setattr(self, name, torch.cat([mask, drawn.to(mask.device)], 1))
        self._clear()

    @torch.no_grad()
    def _clear(self) -> None:
        for weight, mask in ((self.old_weight, self.old_mask), (self.new_weight, self.new_mask)):
            weight.masked_fill_(~mask, 0)

    @property
    def mask(self) -> Tensor:
        """Which weights are kept, bool [C, D]."""
        return torch.cat([self.old_mask, self.new_mask])

    @property
    def weight(self) -> Tensor:
        """All rows [C, D]."""
        old, new = (self.old_mask, self.old_weight), (self.new_mask, self.new_weight)
        return torch.cat([torch.where(mask, rows, 0.0) for mask, rows in (old, new)])

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)
