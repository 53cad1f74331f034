"""Exemplars of earlier classes, kept as uint8 images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.data.batches import Batch
from cl_ac.data.growing import Growing
from cl_ac.data.samples import Samples, concatenate
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.network import ExitNetwork
from cl_ac.training import Trainer

Selection = Literal["random", "herding", "entropy", "distance", "reservoir", "class_balanced", "live"]
# A stream of random numbers that no loss draws from.
KEYS = -1
GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class Memory(Growing):
    """A bounded store of training images.

    Where tasks are domains, each class has a share in each of them: what is said of classes holds for these groups.
    What a fixed total leaves over, all of it where groups are more than exemplars, goes to groups of many domains.

    Exemplars of a class are kept in the order in which they were chosen; when its share shrinks, the last go.
    Selections that ask the network read its final exit, in evaluation mode and without augmentation.

    Args:
        size: exemplars in all, shared equally by the classes seen.
        per_class: exemplars of each class, a memory that grows with the classes; excludes `size`.
        selection: which training images become exemplars.
            `random`: drawn uniformly in each class.
            `herding`: one after the other, each brings the mean of the chosen features closest to the class mean
            (iCaRL, Rebuffi et al., 2017, alg. 4; features of unit length).
            `entropy`: those whose softmax has the highest entropy (RWalk, Chaudhry et al., 2018).
            `distance`: those with the smallest logit of their own class, near the decision boundary (RWalk).
            `reservoir`: a uniform sample of all training images of all tasks, without shares of classes (Vitter, 1985;
            here with random keys instead of one image at a time).
            `class_balanced`: drawn uniformly in each class, and what a class with few images leaves of its share goes
            to the others (CBRS, Chrysakis & Moens, 2020).
            `live`: a uniform sample of all training images that have passed so far, the task's own included: it
            changes after each step while a task is learned, for training that sees each image once.
        rounding: `exact` never keeps more than `size`; `up` gives each class ceil(size / classes), as FACIL and the
            code of the papers built on it do, which is up to one exemplar per class more than `size`.
    """

    def __init__(
        self,
        size: int = 0,
        per_class: int = 0,
        selection: Selection = "random",
        rounding: Literal["exact", "up"] = "exact",
    ):
        super().__init__()
        if size < 0 or per_class < 0:
            raise ConfigurationError(f"memory.size is {size} and memory.per_class {per_class}; none may be negative")
        if size and per_class:
            raise ConfigurationError(
                f"memory.size is {size} and memory.per_class is {per_class}; "
                "set one of them: a fixed total or a number per class"
            )
        if selection not in get_args(Selection):
            raise ConfigurationError(unknown("memory.selection", selection, get_args(Selection)))
        if rounding not in ("exact", "up"):
            raise ConfigurationError(unknown("memory.rounding", rounding, ("exact", "up")))
        if selection == "live" and per_class:
            raise ConfigurationError(
                f"memory.selection is 'live' with memory.per_class {per_class}; a memory that images pass has no "
                "shares of classes: set memory.size instead"
            )
        self.size, self.per_class, self.selection, self.rounding = size, per_class, selection, rounding
        self.register_buffer("images", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("targets", torch.empty(0, dtype=torch.int64))
        self.extras = Growing()

    def __len__(self) -> int:
        """Exemplars stored now."""
        return len(self.targets)

    @property
    def enabled(self) -> bool:
        """Whether it may ever hold anything."""
        return bool(self.size or self.per_class)

    @property
    def live(self) -> bool:
        """Whether it changes while a task is learned."""
        return self.selection == "live"

    @property
    def samples(self) -> Samples:
        """What is stored now."""
        return Samples(self.images, self.targets, dict(self.extras.named_buffers()))

    def store(self, samples: Samples) -> None:
        """Holds `samples` and nothing else from now on; files are decoded."""
        device = self.targets.device
        images = samples.images if samples.resident else samples.images[torch.arange(len(samples))]
        self.images, self.targets = (value.to(device, copy=True) for value in (images, samples.targets))
        self.extras = Growing()
        for name, value in samples.extras.items():
            self.extras.register_buffer(name, value.to(device, copy=True))

    @torch.no_grad()
    def take_up(self, batch: Batch, extras: Mapping[str, Tensor]) -> None:
        """Lets the images of a step pass a memory that is live.

        Each draws a random key, and those with the smallest keys of all stay: a uniform sample of all that passed.

        Args:
            extras: what is stored with each image [B, ...].
        """
        if batch.incoming is None or not self.size:
            return
        device = self.targets.device
        keys = torch.rand(len(batch), generator=batch.stream(KEYS), dtype=torch.float64).to(device, non_blocking=True)
        extras = {**batch.incoming.extras, **extras, "reservoir_key": keys}
        passing = replace(batch.incoming.to(device), extras=extras)
        free = min(self.size - len(self), len(passing))
        if free:
            rows = torch.arange(len(passing), device=device)
            added = passing.select(rows[:free])
            self.store(concatenate(self._widened(added), added) if len(self) else added)
            passing = passing.select(rows[free:])
        if len(passing):
            self._replace(passing)

    def _widened(self, samples: Samples) -> Samples:
        """What is stored, with zeros in extras for what `samples` know more of, such as logits of newer classes."""
        extras = {}
        for name, value in samples.extras.items():
            stored = self.extras.get_buffer(name)
            wider = value.shape[-1] - stored.shape[-1] if value.ndim > 1 else 0
            extras[name] = F.pad(stored, (0, wider)) if wider else stored
        return Samples(self.images, self.targets, extras)

    def _replace(self, samples: Samples) -> None:
        """Lets `samples` take the places of those with the largest keys, where their own are smaller."""
        held = self._widened(samples)
        count = min(len(samples), len(held))
        last = held.extras["reservoir_key"].topk(count).indices
        first = (-samples.extras["reservoir_key"]).topk(count).indices
        smaller = samples.extras["reservoir_key"][first] < held.extras["reservoir_key"][last]

        def exchange(old: Tensor, new: Tensor) -> Tensor:
            chosen = smaller.view(-1, *[1] * (old.ndim - 1))
            return old.index_copy_(0, last, torch.where(chosen, new[first].to(old.dtype), old[last]))

        exchange(self.images, cast(Tensor, samples.images))
        exchange(self.targets, samples.targets)
        for name, value in held.extras.items():
            self.extras.register_buffer(name, exchange(value, samples.extras[name]))

    def quotas(self, num_classes: int) -> list[int]:
        """Exemplars that each of `num_classes` classes may have; what a fixed total leaves over goes to the first."""
        if self.per_class:
            return [self.per_class] * num_classes
        if self.rounding == "up":
            return [-(-self.size // num_classes)] * num_classes
        return [self.size // num_classes + (index < self.size % num_classes) for index in range(num_classes)]

    def update(
        self,
        samples: Samples,
        generator: torch.Generator,
        network: ExitNetwork | None = None,
        trainer: Trainer | None = None,
        per_class: int | None = None,
    ) -> None:
        """Adds exemplars of the classes in `samples` and shrinks the earlier ones to their new share.

        Args:
            samples: training images of new classes; their extras are stored with them.
            generator: what random selections draw from.
            network: what the selections `herding`, `entropy` and `distance` ask.
            trainer: runs the network over the samples.
            per_class: a share of each class in place of the memory's own.
        """
        if not self.enabled or self.live:
            return
        known, targets, order = self._groups(samples)
        counts = torch.cat([known, targets]).bincount()
        shares = torch.tensor(self.quotas(len(counts)) if per_class is None else [per_class] * len(counts))
        # Where domains bring more groups than there are exemplars, none leaves anything of its share.
        spread = "domain" in samples.extras and self.size < len(counts)
        if self.selection == "class_balanced" and self.size and per_class is None and not spread:
            shares = _filled(counts[order], int(shares.sum()))
        quotas = torch.empty_like(shares)
        quotas[order] = shares
        scores = self._scores(samples, generator, network, trainer, int(quotas.max()))
        order = scores.argsort(stable=True)
        order = order[targets[order].argsort(stable=True)]
        candidates = torch.cat([known, targets[order]])
        if self.selection == "reservoir":
            samples = Samples(samples.images, samples.targets, {**samples.extras, "reservoir_key": scores})
            stored = self.extras.get_buffer("reservoir_key").cpu() if len(self) else scores[:0]
            first = torch.cat([stored, scores[order]]).argsort()[: int(quotas.sum())]
            kept = first.sort().values
        else:
            kept = (rank_in_class(candidates) < quotas[candidates]).nonzero()[:, 0]
        old, new = kept[kept < len(self)], order[kept[kept >= len(self)] - len(self)]
        added = samples.select(new.to(samples.targets.device))
        self.store(concatenate(self.samples.select(old.to(self.targets.device)), added) if len(old) else added)

    def _groups(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        """The group of each stored sample and of `samples`: its class, or the rank of its class in its domain.

        Third, all groups in the order in which they are given what is left over.
        """
        parts = [self.samples, samples] if len(self) else [samples]
        groups = torch.cat([part.targets.cpu() for part in parts])
        # Classes are numbered in the order in which they arrive: the largest number tells how many there are.
        order = torch.arange(int(groups.max()) + 1)
        if all("domain" in part.extras for part in parts):
            domains, classes = torch.cat([part.extras["domain"].cpu() for part in parts]), len(order)
            numbers, groups = (domains * classes + groups).unique(return_inverse=True)
            order = spread_over_domains(numbers // classes, numbers % classes)
        return groups[: len(self)], groups[len(self) :], order

    def _scores(
        self,
        samples: Samples,
        generator: torch.Generator,
        network: ExitNetwork | None,
        trainer: Trainer | None,
        most: int,
    ) -> Tensor:
        """A number for each sample [N]; in its class, the lowest are chosen first, and at most the first `most`."""
        if self.selection not in ("herding", "entropy", "distance"):
            return torch.rand(len(samples), generator=generator, dtype=torch.float64)
        if network is None or trainer is None:
            raise ValueError(f"memory.selection '{self.selection}' asks the network; give it and the trainer")
        if self.selection == "herding":
            features = trainer.predict(network, samples, lambda images: network.features(images)[-1:])[0]
            scores = torch.full((len(samples),), torch.inf)
            for target in samples.targets.unique():
                members = (samples.targets == target).nonzero()[:, 0].cpu()
                picked = herd(features[members], most)
                scores[members[picked]] = torch.arange(len(picked)).float()
            return scores
        logits = trainer.predict(network, samples)[-1]
        if self.selection == "distance":
            return logits.gather(1, samples.targets.cpu()[:, None])[:, 0]
        log_probabilities = F.log_softmax(logits, 1)
        return (log_probabilities.exp() * log_probabilities).sum(1)


@dataclass(frozen=True)
class Numbered:
    """A memory whose samples bring their place in it, as the extra `index` [N]."""

    memory: Memory

    @property
    def live(self) -> bool:
        return self.memory.live

    @property
    def samples(self) -> Samples:
        held = self.memory.samples
        return replace(held, extras={**held.extras, "index": torch.arange(len(held), device=held.targets.device)})


def herd(features: Tensor, count: int) -> Tensor:
    """Indices of `count` features [N, D] whose running means stay closest to the mean of all, in order of choice."""
    features = F.normalize(features.double(), dim=1)
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free, picked = torch.ones(len(features), dtype=torch.bool), []
    for step in range(1, min(count, len(features)) + 1):
        distances = (mean - (total + features) / step).norm(dim=1)
        picked.append(distances.where(free, torch.inf).argmin())
        total, free[picked[-1]] = total + features[picked[-1]], False
    return torch.stack(picked) if picked else torch.arange(0)


def spread_over_domains(domains: Tensor, targets: Tensor) -> Tensor:
    """Groups [N], each a class in a domain, in an order whose first ones are of all classes and of many domains.

    Two groups of a class never change places as others come: one whose share has shrunk is not given more again.
    """
    # Multiples of an irrational number are spread evenly over [0, 1): of each class other domains come first.
    keys = (domains * GOLDEN_RATIO + targets * math.sqrt(2)) % 1
    by_key, ranks = keys.argsort(), torch.empty_like(targets)
    ranks[by_key] = rank_in_class(targets[by_key])
    return (ranks * (targets.max() + 1) + targets).argsort()


def rank_in_class(targets: Tensor) -> Tensor:
    """How many samples of the same class stand before each sample in targets [N]."""
    order = targets.argsort(stable=True)
    counts = targets.bincount()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(targets)
    ranks[order] = torch.arange(len(targets), device=targets.device) - starts[targets[order]]
    return ranks


def _filled(counts: Tensor, size: int) -> Tensor:
    """Shares of `size` for classes with `counts` samples: equal, but for classes that have fewer."""
    quotas, classes = torch.zeros_like(counts), len(counts)
    # From the smallest class on, ties backwards: what is left over goes to the first of the largest classes.
    for position, target in enumerate((counts * classes - torch.arange(classes)).argsort().tolist()):
        quotas[target] = min(int(counts[target]), (size - int(quotas.sum())) // (classes - position))
    return quotas
