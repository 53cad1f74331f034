"""What a retrieval method defines, and the methods that change the encoder itself."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cl_ac.data.copying import copied
from cl_ac.data.growing import Growing
from cl_ac.data.pairs import Domain
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.retrieval.answering import TestItems
from cl_ac.retrieval.contrast import similarity_distillation, symmetric_contrast
from cl_ac.retrieval.encoder import DualEncoder, PairBatch, frozen


class Method(Growing):
    """How a dual encoder learns domains one after the other. Override `loss`, and the hooks that the method needs.

    It is a module: what it keeps lives in parameters and buffers, and is thereby saved and restored. `rules` names the
    ways in which it answers; `keeps_embeddings` says that what was learned of a domain never changes later, so that
    what was embedded once stays.
    """

    rules: tuple[str, ...] = ("",)
    keeps_embeddings: ClassVar[bool] = False

    def prepare(self, encoder: DualEncoder) -> None:
        """Runs once, before any state is loaded: freezes, or puts modules into the towers."""

    def begin(self, domain: int, encoder: DualEncoder, seed: int) -> None:
        """Runs before a domain is learned."""

    def learns(self, encoder: DualEncoder) -> list[nn.Parameter]:
        """What training moves: all that is not frozen; nothing of an empty list."""
        return [parameter for parameter in encoder.parameters() if parameter.requires_grad]

    def loss(self, encoder: DualEncoder, batch: PairBatch, stream: torch.Generator) -> Tensor:
        """The loss of one batch, a scalar.

        Args:
            stream: for random draws, keyed by the run's seed, the domain, the epoch and the step.
        """
        return symmetric_contrast(encoder.similarities(batch), batch.matches)

    def end(self, index: int, domain: Domain, encoder: DualEncoder, seed: int) -> None:
        """Runs after a domain was learned: what is kept of it."""

    def similarities(self, rule: str, items: TestItems, side: int, domain: int, gallery: Sequence[int]) -> Tensor:
        """Cosines [Q, M] between the items of a side of a domain, the queries, and a gallery on the other side.

        Args:
            gallery: the domains whose items are searched, one after the other.
        """
        return items.embedded(side, domain) @ items.gallery(1 - side, gallery).T

    def routing(self, items: TestItems, side: int, domain: int) -> tuple[Tensor, Tensor] | None:
        """The domain that each query is routed to [Q], and whether it is known to any [Q]; None without routing."""
        return None

    def added(self, encoder: DualEncoder) -> int:
        """How many numbers are kept so far beside the base model."""
        return sum(value.numel() for value in [*self.parameters(), *self.buffers()])

    def restore(self, state: Mapping[str, Tensor], encoder: DualEncoder) -> None:
        """Loads a state saved after any epoch, into a method that is `prepare`d."""
        self.load_state_dict(state)


class ZeroShot(Method):
    """The base model, which learns nothing."""

    keeps_embeddings = True

    def learns(self, encoder: DualEncoder) -> list[nn.Parameter]:
        return []


class Sequential(Method):
    """Fine-tuning on one domain after the other."""


class LwF(Method):
    """Fine-tuning that keeps each batch's distributions over partners near those before the domain (Li & Hoiem, 2016).

    Args:
        strength: weight of the distillation.
    """

    def __init__(self, strength: float = 1.0):
        super().__init__()
        if strength < 0:
            raise ConfigurationError(f"method.strength is {strength:g}; it must be at least 0")
        self.strength = strength
        self.teacher: DualEncoder | None = None

    def begin(self, domain: int, encoder: DualEncoder, seed: int) -> None:
        self.teacher = copied(encoder).eval()
        frozen(self.teacher.parameters())

    def loss(self, encoder: DualEncoder, batch: PairBatch, stream: torch.Generator) -> Tensor:
        similarities = encoder.similarities(batch)
        assert self.teacher is not None
        with torch.no_grad():
            earlier = self.teacher.eval().similarities(batch)
        loss = symmetric_contrast(similarities, batch.matches)
        return loss + self.strength * similarity_distillation(similarities, earlier)

    def restore(self, state: Mapping[str, Tensor], encoder: DualEncoder) -> None:
        if any(name.startswith("teacher.") for name in state):
            self.begin(0, encoder, 0)
        super().restore(state, encoder)


class EWC(Method):
    """Fine-tuning that holds back weights that mattered for earlier domains (Kirkpatrick et al., 2017).

    The loss couples the pairs of a batch, so that importance is the mean of squared gradients of batches' losses, and
    not of single samples'.

    Args:
        strength: weight of the penalty.
        batches: of a domain that its importance is taken from, of the size of `pairs`.
        pairs: in each of them.
    """

    def __init__(self, strength: float = 1000.0, batches: int = 16, pairs: int = 32):
        super().__init__()
        if strength < 0 or min(batches, pairs) < 1:
            raise ConfigurationError(
                f"method.strength is {strength:g}, method.batches {batches} and method.pairs {pairs}; the first must "
                "be at least 0, the others at least 1"
            )
        self.strength, self.batches, self.pairs = strength, batches, pairs
        self.register_buffer("importance", torch.empty(0))
        self.register_buffer("anchor", torch.empty(0))

    def _flat(self, encoder: DualEncoder) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in self.learns(encoder)])

    def loss(self, encoder: DualEncoder, batch: PairBatch, stream: torch.Generator) -> Tensor:
        loss = super().loss(encoder, batch, stream)
        if not len(self.anchor):
            return loss
        return loss + self.strength * self.importance @ (self._flat(encoder) - self.anchor).square()

    def end(self, index: int, domain: Domain, encoder: DualEncoder, seed: int) -> None:
        encoder.eval()
        pairs, total = domain.train, torch.zeros_like(self._flat(encoder))
        order = torch.randperm(len(pairs), generator=generator(seed, "importance", index))
        chosen = order[: self.batches * self.pairs].split(self.pairs)
        for part in chosen:
            first, second = pairs.matches[part].T
            batch = PairBatch(
                pairs.first[first].to(encoder.device),
                pairs.second[second].to(encoder.device),
                pairs.matching(first, second).to(encoder.device),
                index,
            )
            loss = symmetric_contrast(encoder.similarities(batch), batch.matches)
            parameters = self.learns(encoder)
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            total += torch.cat([gradient.flatten() for gradient in found]).square()
        fresh = total / len(chosen)
        self.importance = fresh + self.importance if len(self.importance) else fresh
        self.anchor = self._flat(encoder).detach().clone()


class Replay(Method):
    """Fine-tuning on the new domain together with stored pairs of earlier ones.

    Args:
        per_domain: pairs that are stored of each domain, drawn at random.
        drawn: stored pairs in each step.
    """

    first: Tensor
    second: Tensor
    matches: Tensor

    def __init__(self, per_domain: int = 100, drawn: int = 32):
        super().__init__()
        if min(per_domain, drawn) < 1:
            raise ConfigurationError(
                f"method.per_domain is {per_domain} and method.drawn {drawn}; both must be at least 1"
            )
        self.per_domain, self.drawn = per_domain, drawn

    @property
    def stored(self) -> int:
        """How many pairs are in memory."""
        return len(self.matches) if hasattr(self, "matches") else 0

    def loss(self, encoder: DualEncoder, batch: PairBatch, stream: torch.Generator) -> Tensor:
        if self.stored:
            chosen = torch.randperm(self.stored, generator=stream)[: self.drawn].to(self.matches.device)
            first, second = self.first[chosen], self.second[chosen]
            windows = encoder.windows(first, second, stream)
            old = PairBatch(first, second, self.matches[chosen][:, chosen], batch.domain, windows)
            now, before = encoder(batch), encoder(old)
            first, second = (torch.cat(parts).float() for parts in zip(now, before, strict=True))
            matches = torch.block_diag(batch.matches.float(), old.matches.float()) > 0
            return symmetric_contrast(first @ second.T / encoder.temperature, matches)
        return super().loss(encoder, batch, stream)

    def end(self, index: int, domain: Domain, encoder: DualEncoder, seed: int) -> None:
        pairs = domain.train
        chosen = torch.randperm(len(pairs), generator=generator(seed, "stored", index))[: self.per_domain]
        first, second = pairs.matches[chosen].T
        fresh = {
            "first": pairs.first[first].to(encoder.device),
            "second": pairs.second[second].to(encoder.device),
            "matches": pairs.matching(first, second).to(encoder.device),
        }
        if self.stored:
            blocks = torch.block_diag(self.matches.float(), fresh["matches"].float()) > 0
            joined = {name: torch.cat([getattr(self, name), fresh[name]]) for name in ("first", "second")}
            fresh = {**joined, "matches": blocks}
        for name, value in fresh.items():
            self.register_buffer(name, value)
