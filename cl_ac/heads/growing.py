"""Classifiers that gain rows with the classes, and columns with the features.

Shapes: C classes seen so far, D features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.data.growing import Growing


class GrowingClassifier(Growing):
    """A classifier that gains rows for new classes: features [..., D] to logits [..., C].

    The rows of the newest task and those of all earlier tasks are two parameters, so that the earlier ones can be
    frozen exactly, weight decay and momentum included.

    Args:
        in_features: D.
    """

    def __init__(self, in_features: int):
        super().__init__()
        self.old_weight, self.new_weight = (nn.Parameter(torch.empty(0, in_features)) for _ in range(2))

    @property
    def in_features(self) -> int:
        """D."""
        return self.new_weight.shape[1]

    @torch.no_grad()
    def widen(self, in_features: int, generator: torch.Generator) -> None:
        """Adds columns to all rows, so that they read `in_features` features, the earlier ones first.

        They are initialised as the columns of `torch.nn.Linear`.
        """
        for name in ("old_weight", "new_weight"):
            rows = getattr(self, name)
            bound = 1 / math.sqrt(in_features)
            added = torch.empty(len(rows), in_features - rows.shape[1]).uniform_(-bound, bound, generator=generator)
            setattr(self, name, nn.Parameter(torch.cat([rows, added.to(rows.device)], 1)))

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        """Adds rows for `num_classes` new classes, initialised as `torch.nn.Linear` does."""
        self.old_weight = nn.Parameter(self.weight.detach())
        self.new_weight = nn.Parameter(self.initial(num_classes, self.in_features, generator=generator))

    def initial(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Uniform values within ±1/√D, drawn on the CPU."""
        bound = 1 / math.sqrt(self.in_features)
        return torch.empty(*shape).uniform_(-bound, bound, generator=generator).to(self.new_weight.device)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws all rows anew, as those of new classes."""
        for rows in (*self.old_rows, *self.new_rows):
            rows.copy_(self.initial(*rows.shape, generator=generator))

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


class BiasedClassifier(GrowingClassifier):
    """A linear classifier with a bias, of which a subclass says where new rows come from."""

    def __init__(self, in_features: int):
        super().__init__(in_features)
        self.old_bias, self.new_bias = (nn.Parameter(torch.empty(0)) for _ in range(2))

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


class GrowingLinear(BiasedClassifier):
    """A linear classifier with a bias, whose new rows are drawn."""

    def grow(self, num_classes: int, generator: torch.Generator) -> None:
        super().grow(num_classes, generator)
        self.old_bias = nn.Parameter(self.bias.detach())
        self.new_bias = nn.Parameter(self.initial(num_classes, generator=generator))


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


@torch.no_grad()
def align(classifier: GrowingClassifier, lengthen: bool = True) -> None:
    """Gives new rows the mean length of old rows (Zhao et al., 2020), but leaves shorter ones unless `lengthen`."""
    old, new = (rows.norm(dim=1).mean() for rows in (classifier.old_weight, classifier.new_weight))
    # All new rows may have been clipped to 0.
    gamma = old / new.clamp(min=1e-12)
    classifier.new_weight.mul_(gamma if lengthen else gamma.clamp(max=1))


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

    @torch.no_grad()
    def reset(self) -> None:
        """Sets all weights to zero again."""
        self.old_weight.zero_()
        self.new_weight.zero_()

    def forward(self, previous: Tensor) -> Tensor:
        """Logits [B, C], of those of the previous AC [B, C], into which no gradient goes."""
        previous = previous.detach()
        weight, last = torch.cat([self.old_weight, self.new_weight]), self.known - 1
        mean = previous.cumsum(-1)[:, last] / self.known
        variance = previous.square().cumsum(-1)[:, last] / self.known - mean.square()
        centred = F.linear(previous, weight) - mean * weight.sum(1)
        return centred * (variance.clamp(min=0) + 1e-5).rsqrt()
