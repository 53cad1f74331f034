"""Exemplars of earlier classes, kept as uint8 images."""

import torch
from torch import Tensor

from cl_ac.errors import ConfigurationError
from cl_ac.samples import Samples
from cl_ac.state import Growing


class Memory(Growing):
    """A bounded store of training images, balanced over the classes seen.

    Exemplars of a class are kept in the order in which they were chosen; when its share shrinks, the last go.

    Args:
        size: exemplars in all, shared by the classes seen; never more are kept.
        per_class: exemplars of each class, a memory that grows with the classes; excludes `size`.
    """

    def __init__(self, size: int = 0, per_class: int = 0):
        super().__init__()
        if size < 0 or per_class < 0:
            raise ConfigurationError(f"memory.size is {size} and memory.per_class {per_class}; none may be negative")
        if size and per_class:
            raise ConfigurationError(
                f"memory.size is {size} and memory.per_class is {per_class}; "
                "set one of them: a fixed total or a number per class"
            )
        self.size, self.per_class = size, per_class
        self.register_buffer("images", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("targets", torch.empty(0, dtype=torch.int64))

    def __len__(self) -> int:
        """Exemplars stored now."""
        return len(self.targets)

    @property
    def enabled(self) -> bool:
        """Whether it may ever hold anything."""
        return bool(self.size or self.per_class)

    @property
    def samples(self) -> Samples:
        """What is stored."""
        return Samples(self.images, self.targets)

    def quotas(self, num_classes: int) -> list[int]:
        """Exemplars that each of `num_classes` classes may have; what a fixed total leaves over goes to the first."""
        if self.per_class:
            return [self.per_class] * num_classes
        return [self.size // num_classes + (index < self.size % num_classes) for index in range(num_classes)]

    def update(self, samples: Samples, generator: torch.Generator) -> None:
        """Adds random exemplars of the new classes in `samples` and shrinks the old classes to their new share."""
        if not self.enabled:
            return
        new_classes = samples.targets.unique().tolist()
        old_classes = [target for target in self.targets.unique().tolist() if target not in new_classes]
        classes = sorted([*old_classes, *new_classes])
        quotas = dict(zip(classes, self.quotas(len(classes)), strict=True))
        old = torch.cat([self._members(target)[: quotas[target]] for target in old_classes] or [torch.arange(0)])
        kept = self.samples.select(old.to(self.targets.device)) if len(old) else None
        new = torch.cat([_draw(samples.targets, target, quotas[target], generator) for target in new_classes])
        added = samples.select(new)
        images = added.images if added.resident else added.images[torch.arange(len(added))]
        device = self.targets.device
        self.images = images.to(device) if kept is None else torch.cat([kept.images, images.to(device)])
        targets = added.targets.to(device)
        self.targets = targets if kept is None else torch.cat([kept.targets, targets])

    def _members(self, target: int) -> Tensor:
        return (self.targets == target).nonzero()[:, 0].cpu()


def _draw(targets: Tensor, target: int, count: int, generator: torch.Generator) -> Tensor:
    members = (targets == target).nonzero()[:, 0]
    return members[torch.randperm(len(members), generator=generator)[:count]]
