"""Classifiers that have a place for every class of a run from the start.

Shapes: C classes seen so far, D features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.heads.growing import BiasedClassifier, GrowingClassifier


class PreparedLinear(BiasedClassifier):
    """A linear classifier whose rows of classes to come learn too; a new class takes the next of them over.

    Args:
        in_features: D.
        classes: of the run.
    """

    def __init__(self, in_features: int, classes: int):
        super().__init__(in_features)
        self.classes = classes
        self.future_bias = nn.Parameter(torch.empty(0))
        self.future_weight = nn.Parameter(torch.empty(0, in_features))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        old_weight, old_bias = self.weight.detach(), self.bias.detach()
        future = [self.future_weight.detach(), self.future_bias.detach()]
        if not len(old_bias):
            future = [self.initial(self.classes, *rest, generator=generator) for rest in ((self.in_features,), ())]
        self.old_weight, self.old_bias = nn.Parameter(old_weight), nn.Parameter(old_bias)
        self.new_weight, self.new_bias = (nn.Parameter(rows[:num_classes].clone()) for rows in future)
        self.future_weight, self.future_bias = (nn.Parameter(rows[num_classes:].clone()) for rows in future)

    def future(self, features: Tensor) -> Tensor:
        """Logits of the classes still to come [..., classes − C]."""
        return F.linear(features, self.future_weight, self.future_bias)


class PreparedPolytope(GrowingClassifier):
    """A learned linear map of features to the fixed vertices of a regular simplex (Pernici et al., 2021, d-simplex).

    Args:
        in_features: D.
        classes: of the run, each of which has a vertex; the map has one dimension less.
    """

    vertices: Tensor
    seen: Tensor

    def __init__(self, in_features: int, classes: int):
        super().__init__(in_features)
        self.register_buffer("vertices", simplex(classes), persistent=False)
        self.projection, self.offset = nn.Parameter(torch.empty(0, in_features)), nn.Parameter(torch.empty(0))
        # One entry for each class so far.
        self.register_buffer("seen", torch.empty(0))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        if not len(self.seen):
            dimensions = self.vertices.shape[1]
            self.projection = nn.Parameter(self.initial(dimensions, self.in_features, generator=generator))
            self.offset = nn.Parameter(self.initial(dimensions, generator=generator))
        self.seen = F.pad(self.seen, (0, num_classes))

    @property
    def weight(self) -> Tensor:
        return self.vertices[: len(self.seen)] @ self.projection

    @property
    def bias(self) -> Tensor:
        """[C]."""
        return self.vertices[: len(self.seen)] @ self.offset

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.linear(features, self.projection, self.offset), self.vertices[: len(self.seen)])

    def future(self, features: Tensor) -> Tensor:
        """Logits of the classes still to come [..., classes − C]."""
        return F.linear(F.linear(features, self.projection, self.offset), self.vertices[len(self.seen) :])


def simplex(count: int) -> Tensor:
    """The vertices [count, count − 1] of a regular simplex, of length 1 and centred."""
    last = torch.full((1, count - 1), (1 - math.sqrt(count)) / (count - 1), dtype=torch.float64)
    corners = torch.cat([torch.eye(count - 1, dtype=torch.float64), last])
    return F.normalize(corners - corners.mean(0), dim=1).float()
