"""Methods that leave the towers as they are and add low-rank adapters."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cl_ac.data.pairs import Domain
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.retrieval.answering import BASE, Mix, TestItems, mixes_of
from cl_ac.retrieval.encoder import DualEncoder, frozen
from cl_ac.retrieval.method import Method
from cl_ac.retrieval.routing import PrototypeRouter, rounded
from cl_ac.tuning.bank import Merge, banks, draw, draw_next, tuning_parameters
from cl_ac.tuning.low_rank import add_low_rank
from cl_ac.tuning.routing import similarities_in_mixed_gallery
from cl_ac.tuning.sample_mixes import adapted_layers
from cl_ac.tuning.sign_election import elect_signs

Merging = Literal["outputs", "weights", "signs"]


class OneAdapter(Method):
    """One low-rank adapter of the frozen towers, which learns one domain after the other.

    Args:
        rank: of the adapters.
        alpha: what is added is scaled by `alpha / rank`; None for `rank`, a factor of 1.
        first_layers: of the first tower that have adapters, by the end of their path or a pattern of it; None for all
            linear layers and convolutions but the first.
        second_layers: the same of the second tower.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        first_layers: list[str] | None = None,
        second_layers: list[str] | None = None,
    ):
        super().__init__()
        if rank < 1:
            raise ConfigurationError(f"method.rank is {rank}; it must be at least 1")
        self.rank, self.alpha, self.layers = rank, alpha, (first_layers, second_layers)

    def prepare(self, encoder: DualEncoder) -> None:
        frozen(encoder.parameters())
        for backbone, names in zip(encoder.backbones, self.layers, strict=True):
            backbone.freeze("all")
            add_low_rank(backbone, self.rank, self.alpha, names)

    def begin(self, domain: int, encoder: DualEncoder, seed: int) -> None:
        if not domain:
            draw(encoder, lambda index: generator(seed, "adapters", domain, index))

    def learns(self, encoder: DualEncoder) -> list[nn.Parameter]:
        return list(tuning_parameters(encoder).values())

    def added(self, encoder: DualEncoder) -> int:
        adapters = sum(parameter.numel() for bank in banks(encoder) for parameter in bank.parameters())
        return adapters + super().added(encoder)


class DAR(OneAdapter):
    """Dynamic adapter routing: an adapter for each domain, chosen and merged for each query by prototypes.

    Follows the idea of the abstract of "Dynamic Adapter Routing" for continual multimodal retrieval (2026); its numbers
    and details are not public. Each domain trains low-rank adapters of its own on both frozen towers. A query is
    embedded by the base model first; prototypes of the base model's embeddings of the training pairs, which never go
    stale, say which domains it is like, or that it is like none and is left to the base model. It is answered under the
    merged adapters of the `top` domains, and so is the gallery.

    The merge `outputs` sums the adapters' outputs for each query with its own weights, makes no weights, and compares
    with a gallery that was embedded once under each adapter. `weights` and `signs` merge the adapters' weights, by
    their weighted sum or with sign election, once for each mix that any query has: there the gallery is embedded under
    each of these mixes, and queries share mixes since weights are rounded to `1 / steps`.

    Its other rules answer from the same adapters: `nearest` by the adapter of the likeliest domain alone, `uniform` by
    the mean of all adapters, and `oracle` by that of the true domain, or the base model where there is none yet.

    Args:
        rank: of the adapters.
        alpha: what is added is scaled by `alpha / rank`; None for `rank`, a factor of 1.
        first_layers: of the first tower that have adapters, by the end of their path or a pattern of it; None for all
            linear layers and convolutions but the first.
        second_layers: the same of the second tower.
        top: domains that are merged for a query.
        temperature: of the softmax over the scores of domains, which gives their weights.
        prototypes: of each domain and side.
        unknown: share of a domain's training items that would be taken for items of no domain.
        merge: how adapters become one, see above.
        steps: for `weights` and `signs`, weights are rounded to `1 / steps` and add up to 1 again.
        keep: for `signs`, the share of each adapter's weights, its largest, that counts.
    """

    rules = ("routed", "nearest", "uniform", "oracle")
    keeps_embeddings = True

    def __init__(
        self,
        rank: int = 8,
        alpha: float | None = None,
        first_layers: list[str] | None = None,
        second_layers: list[str] | None = None,
        top: int = 2,
        temperature: float = 0.05,
        prototypes: int = 5,
        unknown: float = 0.01,
        merge: Merging = "outputs",
        steps: int = 4,
        keep: float = 1.0,
    ):
        super().__init__(rank, alpha, first_layers, second_layers)
        if merge not in get_args(Merging):
            raise ConfigurationError(f"method.merge is '{merge}'; expected one of {', '.join(get_args(Merging))}")
        if steps < 1 or not 0 < keep <= 1:
            raise ConfigurationError(
                f"method.steps is {steps} and method.keep {keep:g}; the first must be at least 1, the other above 0 "
                "and at most 1"
            )
        self.merging, self.steps = merge, steps
        self.merge: Merge | None = partial(elect_signs, keep=keep) if merge == "signs" else None
        self.router = PrototypeRouter(top, temperature, prototypes, unknown)

    def prepare(self, encoder: DualEncoder) -> None:
        super().prepare(encoder)
        if self.merging == "outputs":
            # Told before anything is learned.
            adapted_layers(encoder)

    def begin(self, domain: int, encoder: DualEncoder, seed: int) -> None:
        draw_next(encoder, domain, lambda index: generator(seed, "adapters", domain, index))

    def end(self, index: int, domain: Domain, encoder: DualEncoder, seed: int) -> None:
        items = TestItems(encoder, [])
        for side, values in enumerate(domain.train.sides):
            used = values[domain.train.matches[:, side].unique()]
            self.router.add(side, items.embed(side, used, BASE), seed)

    def similarities(self, rule: str, items: TestItems, side: int, domain: int, gallery: Sequence[int]) -> Tensor:
        learned = len(self.router)
        if not learned or (rule == "oracle" and domain >= learned):
            return _under(items, side, domain, gallery, BASE)
        if rule == "oracle":
            return _under(items, side, domain, gallery, _alone(domain))
        if rule == "uniform":
            mix = tuple((adapter, 1 / learned) for adapter in range(learned))
            return _under(items, side, domain, gallery, mix, self.merge)
        top = 1 if rule == "nearest" else self.router.top
        weights = self.router.weights(side, items.embedded(side, domain, BASE), top, guarded=rule == "routed")
        if top > 1 and self.merging == "outputs":
            queries = items.embed_mixed(side, items.items(side, domain), weights)
            mixes = [BASE, *map(_alone, range(learned))]
            embedded = torch.stack([items.gallery(1 - side, gallery, mix) for mix in mixes])
            to_base = 1 - weights.sum(1, keepdim=True)
            return similarities_in_mixed_gallery(queries, torch.cat([to_base, weights], 1), embedded)
        found, order = [], []
        for mix, queries in mixes_of(rounded(weights, self.steps)):
            # Under one adapter everything is embedded once; a mix is rarely met again.
            if len(mix) < 2:
                embedded = items.embedded(side, domain, mix)[queries]
            else:
                embedded = items.embed(side, items.items(side, domain)[queries.cpu()], mix, self.merge)
            found.append(embedded @ items.gallery(1 - side, gallery, mix, self.merge).T)
            order.append(queries)
        return torch.cat(found)[torch.cat(order).argsort()]

    def routing(self, items: TestItems, side: int, domain: int) -> tuple[Tensor, Tensor] | None:
        if not len(self.router):
            return None
        scores = self.router.scores(side, items.embedded(side, domain, BASE))
        return scores.argmax(1), self.router.is_known(side, scores)


def _alone(adapter: int) -> Mix:
    return ((adapter, 1.0),)


def _under(
    items: TestItems, side: int, domain: int, gallery: Sequence[int], mix: Mix, merge: Merge | None = None
) -> Tensor:
    """Cosines where queries and gallery are embedded under the same mix."""
    return items.embedded(side, domain, mix, merge) @ items.gallery(1 - side, gallery, mix, merge).T
