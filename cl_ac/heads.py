"""Heads as they are trained: a reduction of a feature map and a classifier that grows with the classes.

Shapes: B batch, C classes seen so far, D features.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.data.growing import Growing
from cl_ac.data.layouts import AXES, Layout, read, read_shape, usual_layout


class GrowingClassifier(Growing):
    """A classifier that gains rows for new classes: features [..., D] to logits [..., C].

    The rows of the newest task and those of all earlier tasks are two parameters, so that the earlier ones can be
    frozen exactly, weight decay and momentum included.

    Args:
        in_features: D.
    """

    def __init__(self, in_features: int):
        super().__init__()
        self.in_features = in_features
        self.old_weight, self.new_weight = (nn.Parameter(torch.empty(0, in_features)) for _ in range(2))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Adds rows for `num_classes` new classes, initialised as `torch.nn.Linear` does."""
        self.old_weight = nn.Parameter(self.weight.detach())
        self.new_weight = nn.Parameter(self.initial(num_classes, self.in_features, generator=generator))

    def initial(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Uniform values within ±1/√D, drawn on the CPU."""
        bound = 1 / math.sqrt(self.in_features)
        return torch.empty(*shape).uniform_(-bound, bound, generator=generator).to(self.new_weight.device)

    @property
    def weight(self) -> Tensor:
        """All rows [rows, D]."""
        return torch.cat([self.old_weight, self.new_weight])

    @property
    def old_rows(self) -> list[nn.Parameter]:
        """What belongs to the classes of earlier tasks."""
        return [self.old_weight]

    @property
    def new_rows(self) -> list[nn.Parameter]:
        """What belongs to the classes of the newest task."""
        return [self.new_weight]


class GrowingLinear(GrowingClassifier):
    """A linear classifier with a bias."""

    def __init__(self, in_features: int):
        super().__init__(in_features)
        self.old_bias, self.new_bias = (nn.Parameter(torch.empty(0)) for _ in range(2))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        super().grow(num_classes, generator)
        self.old_bias = nn.Parameter(self.bias.detach())
        self.new_bias = nn.Parameter(self.initial(num_classes, generator=generator))

    @property
    def bias(self) -> Tensor:
        """[C]."""
        return torch.cat([self.old_bias, self.new_bias])

    @property
    def old_rows(self) -> list[nn.Parameter]:
        return [self.old_weight, self.old_bias]

    @property
    def new_rows(self) -> list[nn.Parameter]:
        return [self.new_weight, self.new_bias]

    def forward(self, features: Tensor) -> Tensor:
        old = F.linear(features, self.old_weight, self.old_bias)
        return torch.cat([old, F.linear(features, self.new_weight, self.new_bias)], -1)


class GrowingCosine(GrowingClassifier):
    """A cosine classifier: `scale · cos(w_c, x)` with one learned scale for all classes (Hou et al., 2019, LUCIR).

    With several proxies per class, a class scores the mean of their cosines weighted by the softmax of the cosines
    (Douillard et al., 2020, PODNet, eq. 8).

    Args:
        in_features: D.
        proxies: rows per class.
    """

    def __init__(self, in_features: int, proxies: int = 1):
        super().__init__(in_features)
        self.proxies = proxies
        self.scale = nn.Parameter(torch.ones(()))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        super().grow(num_classes * self.proxies, generator)

    @torch.no_grad()
    def imprint(self, directions: Tensor) -> None:
        """Sets the newest rows to `directions` [rows, D], lengthened to the mean length of the old rows."""
        self.new_weight.copy_(directions * self.old_weight.norm(dim=1).mean())

    def forward(self, features: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))
        cosines = cosines.unflatten(-1, (-1, self.proxies))  # [..., C, proxies]
        return self.scale * (cosines.softmax(-1) * cosines).sum(-1)


class Cascade(Growing):
    """What an AC makes of the logits of the AC before it: a linear map of them to logits of its own (Wołczyk et al.,
    2021, ZTW).

    Each row reads the logits of all classes, less their mean and divided by their deviation over the classes that
    existed when the row was added: a layer norm that new classes do not move. All weights start at zero. So growing
    changes no logit of old classes, and at first an AC answers as it would alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.old_weight, self.new_weight = (nn.Parameter(torch.empty(0, 0)) for _ in range(2))
        self.register_buffer("known", torch.empty(0, dtype=torch.int64))

    def grow(self, num_classes: int) -> None:
        """Adds rows and columns for `num_classes` new classes."""
        rows, device = len(self.known) + num_classes, self.known.device
        old = F.pad(torch.cat([self.old_weight, self.new_weight]).detach(), (0, num_classes))
        self.old_weight = nn.Parameter(old.reshape(-1, rows))
        self.new_weight = nn.Parameter(torch.zeros(num_classes, rows, device=device))
        self.known = torch.cat([self.known, torch.full((num_classes,), rows, device=device)])

    def forward(self, previous: Tensor) -> Tensor:
        """Logits [B, C], of those of the previous AC [B, C], into which no gradient goes."""
        previous = previous.detach()
        weight, last = torch.cat([self.old_weight, self.new_weight]), self.known - 1
        mean = previous.cumsum(-1)[:, last] / self.known
        variance = previous.square().cumsum(-1)[:, last] / self.known - mean.square()
        centred = F.linear(previous, weight) - mean * weight.sum(1)
        return centred * (variance.clamp(min=0) + 1e-5).rsqrt()


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
    """A classifier on the first (class) token of [B, tokens, D], or on their mean, after layer normalisation.

    The normalisation has no scale and shift of its own: the linear layer of each class can absorb them.

    Args:
        layout: `class_token` or `tokens`.
    """

    def __init__(self, classifier: GrowingClassifier, cascade: Cascade | None = None, layout: Layout = "class_token"):
        super().__init__(classifier, cascade)
        self.layout = layout

    def features(self, hidden: Tensor) -> Tensor:
        token = read(hidden, self.layout)[:, 0]
        return F.layer_norm(token, token.shape[-1:])


class Pooling(nn.Module):
    """Max-pools and average-pools a feature map; a 1 × 1 map stays.

    Args:
        shape: of the feature map.
        factor: by which each side shrinks, rounded up.
        layout: where in the shape the channels stand, `channels_first` or `channels_last`.
    """

    def __init__(self, shape: Sequence[int], factor: int = 2, layout: Layout = "channels_first"):
        super().__init__()
        channels, height, width = read_shape(shape, layout)
        self.factor, self.layout = factor, layout
        self.size = (-(-height // factor), -(-width // factor))
        self.keeps = self.size == (height, width)
        self.divides = height % factor == 0 and width % factor == 0
        self.out_features = channels * self.size[0] * self.size[1]

    def maps(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum and the average map [B, channels, height, width]."""
        hidden = read(hidden, self.layout)
        if self.keeps:
            return hidden, hidden
        if self.divides:
            return F.max_pool2d(hidden, self.factor), F.avg_pool2d(hidden, self.factor)
        return F.adaptive_max_pool2d(hidden, self.size), F.adaptive_avg_pool2d(hidden, self.size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Both maps as vectors [2, B, D]."""
        return torch.stack([part.flatten(1) for part in self.maps(hidden)])


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
        """The vector [B, D] that the newest task's classifier reads."""
        maximum, average = self.pooling(hidden)
        return torch.lerp(average, maximum, self.new_mix.to(average.dtype))

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
    """The head for a map (pooled), for tokens [T, D] (the class token, or their mean), or for a vector [D].

    Args:
        pool: factor by which a map's sides shrink.
        classifier: builds the classifier for D features.
        cascade: reads the logits of the previous AC, if any.
        layout: what the axes of `shape` are; by default `channels_first`, `class_token` or `vector`.
    """
    layout = usual_layout(shape) if layout is None else layout
    if layout is None:
        raise ValueError(f"a stage's output of shape {tuple(shape)} has no usual layout; name it")
    if AXES[layout] == 3:
        pooling = Pooling(shape, pool, layout)
        reader = classifier(pooling.out_features)
        if isinstance(reader, GrowingLinear):
            return PooledHead(pooling, reader, cascade)
        return MixedHead(pooling, reader, cascade)
    if AXES[layout] == 2:
        return TokenHead(classifier(shape[-1]), cascade, layout)
    return Head(classifier(shape[-1]), cascade)
