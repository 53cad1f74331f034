"""Heads as they are trained: a reduction of a stage's output and a classifier that grows with the classes.

Shapes: B batch, C classes seen so far, D features.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.data.growing import Growing
from cl_ac.data.layouts import AXES, Layout, read, read_shape, usual_layout
from cl_ac.heads.growing import Cascade, GrowingClassifier, GrowingLinear
from cl_ac.heads.pooling import Pooling


class Head(nn.Module):
    """A classifier on a feature vector [B, D]: the final exit of every network.

    Args:
        classifier: reads the vector.
        cascade: reads the logits of the previous AC as well; None for the first AC and the final exit.
    """

    layout: Layout = "vector"

    def __init__(self, classifier: GrowingClassifier, cascade: Cascade | None = None):
        super().__init__()
        self.classifier, self.cascade = classifier, cascade

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Adds what `num_classes` new classes need."""
        self.classifier.grow(num_classes, generator)
        if self.cascade is not None:
            self.cascade.grow(num_classes)

    def features_in(self, shape: Sequence[int]) -> int:
        """How many features the classifier reads of a stage's output of `shape`."""
        return math.prod(shape)

    def widen(self, shape: Sequence[int], generator: torch.Generator) -> None:
        """Prepares for a stage's output that has become wider, with the new channels behind the earlier ones."""
        self.classifier.widen(self.features_in(shape), generator)

    def reset(self, generator: torch.Generator) -> None:
        """Draws the classifier anew; what else the head has learned, such as its mixes of poolings, stays."""
        self.classifier.reset(generator)
        if self.cascade is not None:
            self.cascade.reset()

    @property
    def old_rows(self) -> list[nn.Parameter]:
        """What belongs to the classes of earlier tasks."""
        return [*self.classifier.old_rows, *([] if self.cascade is None else [self.cascade.old_weight])]

    @property
    def new_rows(self) -> list[nn.Parameter]:
        """What belongs to the classes of the newest task."""
        return [*self.classifier.new_rows, *([] if self.cascade is None else [self.cascade.new_weight])]

    def features(self, hidden: Tensor) -> Tensor:
        """The vector that the classifier reads: [B, D]."""
        return hidden.flatten(1)

    def reduce(self, hidden: Tensor) -> Tensor:
        """What the head reads of a stage's output, and what stays the same while only the head learns: [B, ...]."""
        return self.features(hidden)

    def alone(self, reduced: Tensor) -> Tensor:
        """Logits [B, C] of what `reduce` gave, without what the previous AC says."""
        return self.classifier(reduced)

    def answer(self, reduced: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits [B, C] of what `reduce` gave.

        Args:
            previous: the logits of the previous AC [B, C], which only a cascade reads.
        """
        logits = self.alone(reduced)
        return logits if self.cascade is None else logits + self.cascade(previous)

    def forward(self, hidden: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits [B, C] of a stage's output."""
        return self.answer(self.reduce(hidden), previous)


class TokenHead(Head):
    """A classifier on the first (class) token of [B, tokens, D], the last, or a mean, after layer normalisation.

    The normalisation has no scale and shift of its own: the linear layer of each class can absorb them.

    Args:
        layout: `class_token`, `tokens`, `patches`, or one of a text's.
    """

    def __init__(self, classifier: GrowingClassifier, cascade: Cascade | None = None, layout: Layout = "class_token"):
        super().__init__(classifier, cascade)
        self.layout = layout

    def features_in(self, shape: Sequence[int]) -> int:
        return read_shape(shape, self.layout)[-1]

    def features(self, hidden: Tensor) -> Tensor:
        token = read(hidden, self.layout)[:, 0]
        return F.layer_norm(token, token.shape[-1:])


class PooledHead(Growing, Head):
    """A linear classifier on a learned mix of max and average pooling (Kaya et al., 2019, SDN).

    `W (a · max(x) + (1 − a) · avg(x)) + b` with one mix `a` per task. Both poolings are computed once for all tasks,
    and the mix is applied to the logits, where it is the same by linearity.
    """

    def __init__(self, pooling: Pooling, classifier: GrowingLinear, cascade: Cascade | None = None):
        super().__init__(classifier, cascade)
        self.pooling, self.layout = pooling, pooling.layout
        self.old_mix, self.new_mix = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0))
        self.register_buffer("task_of_class", torch.empty(0, dtype=torch.int64))

    def features_in(self, shape: Sequence[int]) -> int:
        return self.pooling.out_features(shape)

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        device = self.new_mix.device
        super().grow(num_classes, generator)
        self.old_mix = nn.Parameter(torch.cat([self.old_mix, self.new_mix]).detach())
        self.new_mix = nn.Parameter(torch.rand(1, generator=generator).to(device))
        newest = torch.full((num_classes,), len(self.old_mix), device=device)
        self.task_of_class = torch.cat([self.task_of_class, newest])

    @property
    def old_rows(self) -> list[nn.Parameter]:
        return [*super().old_rows, self.old_mix]

    @property
    def new_rows(self) -> list[nn.Parameter]:
        return [*super().new_rows, self.new_mix]

    def features(self, hidden: Tensor) -> Tensor:
        """The mean of both poolings [B, D]: no task's mix, so that what is kept of features stays valid."""
        return self.pooling(hidden).mean(0)

    @property
    def mix(self) -> Tensor:
        """`a` of each class [C]."""
        return torch.cat([self.old_mix, self.new_mix])[self.task_of_class]

    def reduce(self, hidden: Tensor) -> Tensor:
        return self.pooling(hidden).transpose(0, 1)  # [B, 2, D]

    def alone(self, reduced: Tensor) -> Tensor:
        maximum, average = self.classifier(reduced.transpose(0, 1))
        return torch.lerp(average, maximum, self.mix.to(average.dtype))


class MixedHead(Head):
    """As `PooledHead` for classifiers that are not linear: they read one vector, so all tasks share one mix.

    The mix starts at 1/2: an initial value of its own for every exit would need a generator before the first task.
    """

    def __init__(self, pooling: Pooling, classifier: GrowingClassifier, cascade: Cascade | None = None):
        super().__init__(classifier, cascade)
        self.pooling, self.layout = pooling, pooling.layout
        self.mix = nn.Parameter(torch.full((1,), 0.5))

    def features_in(self, shape: Sequence[int]) -> int:
        return self.pooling.out_features(shape)

    def features(self, hidden: Tensor) -> Tensor:
        return self._mixed(self.reduce(hidden))

    def reduce(self, hidden: Tensor) -> Tensor:
        return self.pooling(hidden).transpose(0, 1)  # [B, 2, D]

    def alone(self, reduced: Tensor) -> Tensor:
        return self.classifier(self._mixed(reduced))

    def _mixed(self, reduced: Tensor) -> Tensor:
        maximum, average = reduced.unbind(1)
        return torch.lerp(average, maximum, self.mix.to(average.dtype))


def build_head(
    shape: Sequence[int],
    pool: int,
    classifier: Callable[[int], GrowingClassifier],
    cascade: Cascade | None = None,
    layout: Layout | None = None,
) -> Head:
    """The head for a map (pooled), for tokens [T, D] (the class token, a mean, or their map), or for a vector [D].

    Args:
        pool: factor by which a map's sides shrink.
        classifier: builds the classifier for D features.
        cascade: reads the logits of the previous AC, if any.
        layout: what the axes of `shape` are; by default `channels_first`, `class_token` or `vector`.
    """
    layout = usual_layout(shape) if layout is None else layout
    if layout is None:
        raise ValueError(f"a stage's output of shape {tuple(shape)} has no usual layout; name it")
    if len(read_shape(shape, layout)) == 3:
        pooling = Pooling(shape, pool, layout)
        reader = classifier(pooling.out_features(shape))
        if isinstance(reader, GrowingLinear):
            return PooledHead(pooling, reader, cascade)
        return MixedHead(pooling, reader, cascade)
    if AXES[layout] == 2:
        return TokenHead(classifier(read_shape(shape, layout)[-1]), cascade, layout)
    return Head(classifier(shape[-1]), cascade)
