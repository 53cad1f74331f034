"""Routing among adapters: how much of each, and what was embedded once under each. Shapes: Q queries, T adapters."""

import torch
from torch import Tensor


def shared_weights(scores: Tensor, top: int, temperature: float) -> Tensor:
    """Weights [Q, T] that add up to 1: the `top` adapters of the highest scores [Q, T] share it by a softmax."""
    highest, chosen = scores.topk(min(top, scores.shape[1]), 1)
    return torch.zeros_like(scores).scatter(1, chosen, (highest / temperature).softmax(1))


def products(gallery: Tensor) -> Tensor:
    """Of each item of a gallery [T, M, D] under one adapter and under another: [T, T, M]."""
    return torch.einsum("smd,tmd->stm", gallery, gallery)


def similarities_in_mixed_gallery(
    queries: Tensor, weights: Tensor, gallery: Tensor, known: Tensor | None = None
) -> Tensor:
    """Cosines between queries and a gallery that was embedded once under each adapter: [Q, M].

    For each query the gallery is the mix of these embeddings with the query's own weights, normalised again: what the
    merged adapters give to first order in what they add.

    Args:
        queries: under their own mixes, of length 1 [Q, D].
        weights: of what the gallery was embedded under [Q, T]; each row adds up to 1.
        gallery: under each adapter, and maybe the base model, of length 1 [T, M, D].
        known: `products` of the gallery, where it is asked more than once.
    """
    found = torch.stack([queries @ each.T for each in gallery], 1)  # [Q, T, M]
    mixed = torch.einsum("qt,qtm->qm", weights, found)
    squares = torch.einsum("qs,qt,stm->qm", weights, weights, products(gallery) if known is None else known)
    return mixed / squares.clamp(min=1e-12).sqrt()
