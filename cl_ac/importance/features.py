"""How much each direction of the features matters to the answers (Magistri et al., 2024, EFC).

Shapes: E exits, N samples, C classes, K prototypes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_importance(logits: Tensor) -> Tensor:
    """`M = mean (diag p − p pᵀ)` [E, C, C] of the probabilities p that logits [E, N, C] stand for."""
    probabilities = logits.double().softmax(-1)
    return (torch.diag_embed(probabilities.mean(1)) - probabilities.mT @ probabilities / logits.shape[1]).float()


def nearness(logits: Tensor, centres: Tensor, importance: Tensor, sigma: float) -> Tensor:
    """How much each sample tells of the drift of each prototype: [E, K, N], of sum 1 over the samples.

    Args:
        logits: of samples [E, N, C].
        centres: logits of prototypes [E, K, C].
        importance: M [E, C, C].
        sigma: of the weights, in units of the largest distance less the smallest.
    """
    samples, centres, importance = logits.double(), centres.double(), importance.double()
    own = [((value @ importance) * value).sum(-1) for value in (centres, samples)]
    distances = own[0][:, :, None] + own[1][:, None] - 2 * centres @ importance @ samples.mT
    flat = distances.flatten(1)
    spread = (flat.amax(1) - flat.amin(1)).clamp(min=torch.finfo(flat.dtype).tiny)
    return F.softmax(-distances / spread[:, None, None] / (2 * sigma**2), -1).float()
