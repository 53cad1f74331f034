"""Gaussian classes, each with a covariance of its own, on features that were made more Gaussian.

Shapes: B batch, C classes seen, D features, N samples.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.classifier import Classifier
from cl_ac.errors import ConfigurationError


class FeCAM(Classifier):
    """The nearest mean by the Mahalanobis distance of each class (Goswami et al., 2023, FeCAM).

    Features are transformed, `x ← sign(x) |x|^tukey`. Of each class the mean m_c and the covariance of these are kept,
    this shrunk, `Σ + diagonal · V₁ I + off_diagonal · V₂ (1 − I)` with V₁ and V₂ the means of its entries on and off
    the diagonal, and scaled to a correlation matrix R_c. The distance is `(u − m_c)ᵀ R_c⁻¹ (u − m_c)`, u and m_c of
    unit length. Made for a frozen backbone: elsewhere classes of earlier tasks go stale.

    (The authors' code transforms the mean of the features, not the features of which the mean is taken, shrinks
    twice for convolutional networks, and takes plain distances until the second task.)

    Args:
        tukey: exponent of the transformation; 1 leaves features as they are.
        diagonal: γ₁ (the authors': 1).
        off_diagonal: γ₂ (the authors': 1, and 0 for transformers).
        temperature: by which distances are divided; changes no exit's answers but their confidence.
        side: largest side of the pooled map. Each class keeps D² numbers of each exit; where that is no matter, 2
            tells shallow exits much more.
        reading: how features are read and exits aggregated, see `Classifier`.
    """

    needs_equal_features: ClassVar[bool] = True

    def __init__(
        self,
        tukey: float = 0.5,
        diagonal: float = 1.0,
        off_diagonal: float = 1.0,
        temperature: float = 0.02,
        side: int = 1,
        **reading,
    ):
        super().__init__(side=side, **reading)
        for name, value in (("tukey", tukey), ("temperature", temperature)):
            if value <= 0:
                raise ConfigurationError(f"classifier.{name} is {value}; it must be above 0")
        for name, value in (("diagonal", diagonal), ("off_diagonal", off_diagonal)):
            if value < 0:
                raise ConfigurationError(f"classifier.{name} is {value}; it must be at least 0")
        self.tukey, self.diagonal, self.off_diagonal, self.temperature = tukey, diagonal, off_diagonal, temperature

    def fit(self, task, network, trainer, memory) -> None:
        batches = list(self.passes(network, task.train.without_extras(), trainer))
        targets = torch.cat([part for _, part in batches])
        for index in range(len(network)):
            features = transformed(torch.cat([parts[index] for parts, _ in batches]).double(), self.tukey)
            classes = [features[targets == target] for target in range(task.classes.start, task.classes.stop)]
            means = torch.stack([rows.sum(0) / max(len(rows), 1) for rows in classes])
            precisions = torch.stack(
                [precision(covariance(rows), self.diagonal, self.off_diagonal) for rows in classes]
            )
            for name, new in (("means", F.normalize(means)), ("precisions", precisions)):
                earlier = getattr(self, f"{name}_{index}", new[:0].float())
                self.register_buffer(f"{name}_{index}", torch.cat([earlier, new.float()]))

    def score(self, index, features) -> Tensor:
        means, precisions = (getattr(self, f"{name}_{index}") for name in ("means", "precisions"))
        apart = F.normalize(transformed(features, self.tukey))[:, None] - means  # [B, C, D]
        turned = torch.einsum("bcd,cde->bce", apart, precisions)
        return -(turned * apart).sum(-1) / self.temperature


def transformed(features: Tensor, exponent: float) -> Tensor:
    """Features with their absolute values raised to a power (Tukey, 1977)."""
    return features.sign() * features.abs() ** exponent


def covariance(features: Tensor) -> Tensor:
    """The covariance [D, D] of features [N, D], with divisor N − 1; zero of fewer than two."""
    centred = features - features.sum(0) / max(len(features), 1)
    return centred.T @ centred / max(len(features) - 1, 1)


def precision(covariance: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """The inverse of a covariance [D, D] that is shrunk and scaled to a correlation matrix, see `FeCAM`."""
    size = len(covariance)
    identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    trace = covariance.trace()
    on, off = trace / size, (covariance.sum() - trace) / max(size * (size - 1), 1)
    shrunk = covariance + diagonal * on * identity + off_diagonal * off * (1 - identity)
    # A feature without variance is independent of the others.
    deviation = shrunk.diagonal().clamp(min=torch.finfo(shrunk.dtype).tiny ** 0.5).sqrt()
    correlation = shrunk / deviation / deviation[:, None]
    return torch.linalg.pinv(torch.where(identity > 0, 1.0, correlation), hermitian=True)
