"""Losses on similarities between the two sides of a batch. Shapes: B pairs, D width."""

import torch
import torch.nn.functional as F
from torch import Tensor


def symmetric_contrast(similarities: Tensor, matches: Tensor) -> Tensor:
    """The symmetric contrastive loss (Radford et al., 2021, CLIP), where an item may have several partners.

    `−mean_b mean_{c matching b} log softmax_c(s_b)`, the mean of both directions. With one partner each it is the
    cross-entropy of CLIP.

    Args:
        similarities: cosines over a temperature [B, B], rows of the first side.
        matches: which belong together, bool [B, B]; each has a partner.
    Returns:
        A scalar.
    """
    both = (similarities, matches), (similarities.T, matches.T)
    losses = [-(match * rows.log_softmax(1)).sum(1) / match.sum(1) for rows, match in both]
    return torch.stack(losses).mean()


def similarity_distillation(similarities: Tensor, earlier: Tensor) -> Tensor:
    """How far the distributions over a batch's partners moved: `KL(softmax earlier ‖ softmax now)`, both directions.

    Args:
        similarities: cosines over a temperature [B, B].
        earlier: those of the teacher [B, B].
    Returns:
        A scalar.
    """
    both = (similarities, earlier), (similarities.T, earlier.T)
    parts = [
        F.kl_div(now.log_softmax(1), was.log_softmax(1), reduction="batchmean", log_target=True) for now, was in both
    ]
    return torch.stack(parts).mean()
