"""Which domains a query is of, by prototypes in the space of the base model. Shapes: B queries, T domains, D width."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.classifiers.imprinting import centres
from cl_ac.data.growing import Growing
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.tuning.routing import shared_weights


class PrototypeRouter(Growing):
    """Prototypes of each domain and side: centres that k-means finds among embeddings of the base model.

    They never go stale, since adapters do not change the base model. The score of a domain is the largest cosine to one
    of its prototypes. A query that is less like every domain than all but a share `unknown` of the domain's own
    training items, scored by prototypes that were found without them, belongs to none of them.

    Args:
        top: so many domains of the highest scores are used.
        temperature: of the softmax over their scores, which are their weights.
        prototypes: of each domain and side.
        unknown: share of a domain's training items that would be taken for unknown; 0 takes no query for unknown.
    Raises:
        ConfigurationError: if a number is out of range.
    """

    least_0: Tensor

    def __init__(self, top: int = 2, temperature: float = 0.05, prototypes: int = 5, unknown: float = 0.01):
        super().__init__()
        if top < 1 or prototypes < 1:
            raise ConfigurationError(f"top is {top} and prototypes {prototypes}; both must be at least 1")
        if temperature <= 0 or not 0 <= unknown < 1:
            raise ConfigurationError(
                f"the router's temperature is {temperature:g} and unknown {unknown:g}; the first must be above 0, the "
                "other at least 0 and below 1"
            )
        self.top, self.temperature, self.prototypes, self.unknown = top, temperature, prototypes, unknown
        for side in range(2):
            self.register_buffer(f"means_{side}", torch.empty(0, prototypes, 0))  # [T, prototypes, D]
            self.register_buffer(f"least_{side}", torch.empty(0))  # the score below which an item is unknown [T]

    def __len__(self) -> int:
        return len(self.least_0)

    @property
    def values(self) -> int:
        """How many numbers are kept."""
        return sum(buffer.numel() for buffer in self.buffers())

    def add(self, side: int, embeddings: Tensor, seed: int) -> None:
        """Finds the prototypes of a new domain.

        Args:
            embeddings: of its training items by the base model, of length 1 [N, D].
        """
        found = self._found(embeddings, seed)
        means, least = getattr(self, f"means_{side}"), getattr(self, f"least_{side}")
        limit = self._limit(embeddings, seed) if self.unknown else embeddings.new_tensor(-1.0)
        setattr(self, f"means_{side}", torch.cat([means.to(found).view(len(means), *found.shape), found[None]]))
        setattr(self, f"least_{side}", torch.cat([least.to(limit), limit[None]]))

    def _limit(self, embeddings: Tensor, seed: int) -> Tensor:
        """The score that a share `unknown` of a domain's items are below, a scalar.

        Prototypes are nearer to the items that they were found among than to others of the domain: each half is scored
        by prototypes of the other half.
        """
        order = torch.randperm(len(embeddings), generator=generator(seed, "halves")).to(embeddings.device)
        halves = embeddings[order].tensor_split(2)
        pairs = [(halves[0], halves[1]), (halves[1], halves[0])] if len(order) > 1 else [(embeddings, embeddings)]
        scores = [(items @ self._found(others, seed).T).amax(1) for items, others in pairs]
        return torch.cat(scores).quantile(self.unknown)

    def _found(self, embeddings: Tensor, seed: int) -> Tensor:
        """The prototypes of some embeddings [N, D], of length 1."""
        return F.normalize(centres(embeddings.cpu(), self.prototypes, seed), dim=1).to(embeddings)

    def scores(self, side: int, embeddings: Tensor) -> Tensor:
        """The largest cosine of each query to a prototype of each domain [B, T]."""
        return torch.einsum("bd,tpd->btp", embeddings, getattr(self, f"means_{side}")).amax(-1)

    def is_known(self, side: int, scores: Tensor) -> Tensor:
        """Which queries are like one of the domains at least: bool [B]."""
        return (scores >= getattr(self, f"least_{side}")).any(1)

    def weights(self, side: int, embeddings: Tensor, top: int | None = None, guarded: bool = True) -> Tensor:
        """The weight of each domain for each query [B, T], which add up to 1; zeros for a query of no domain.

        Args:
            top: so many domains; the router's own number by default.
            guarded: whether queries of no domain are left to the base model.
        """
        scores = self.scores(side, embeddings)
        weights = shared_weights(scores, top or self.top, self.temperature)
        return weights * self.is_known(side, scores)[:, None] if guarded else weights


def rounded(weights: Tensor, steps: int) -> Tensor:
    """Weights [B, T] rounded to multiples of `1 / steps`, then divided by their sum, so that many queries share them.

    They add up to 1 again, and are multiples of `1 / steps` only where the rounded ones did so already.
    """
    coarse = (weights * steps).round()
    empty = (coarse.sum(1) == 0) & (weights.sum(1) > 0)
    largest = torch.zeros_like(coarse).scatter(1, weights.argmax(1, keepdim=True), 1.0)
    coarse = torch.where(empty[:, None], largest, coarse)
    return coarse / coarse.sum(1, keepdim=True).clamp(min=1)
