"""What tunes one place of a frozen network: entries of one make, one for each task or use, that add something there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cl_ac.tuning.prompts import Prompts


class Entry(nn.Module):
    """What an entry of a bank must be: it adds zero until its first step, and learns once it has been drawn."""

    def draw(self, generator: torch.Generator) -> None:
        """Draws the weights that decide where learning leads; what it adds stays zero."""
        raise NotImplementedError


# What several entries at work add [K, ...], with their weights [K], as one addition [...].
Merge = Callable[[Tensor, Tensor], Tensor]


class Bank(nn.Module):
    """Adds to a value what its entries make of it, weighted; those that are not in the mix are not computed.

    All entries but the newest are frozen. A state with more or fewer entries is taken over as it is.

    Args:
        make: gives a new entry.

    `mix` is the weight of each entry at work, by its index: at first, and after each new entry, the newest alone.
    `merge` makes one addition of those of several entries; None for their weighted sum.
    """

    def __init__(self, make: Callable[[], Entry]):
        super().__init__()
        self.make = make
        self.entries = nn.ModuleList([make()])
        self.mix: dict[int, float] = {0: 1.0}
        self.merge: Merge | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def newest(self) -> Entry:
        """The entry that learns."""
        return self.entries[-1]  # type: ignore[return-value]

    def add(self) -> None:
        """Adds an entry, which alone is at work and learns from now on."""
        self.entries.requires_grad_(False)
        like = next(self.newest.parameters())
        self.entries.append(self.make().to(like.device, like.dtype).train(self.training))
        self.mix = {len(self) - 1: 1.0}

    def forward(self, value: Tensor, read: Tensor | None = None) -> Tensor:
        """`value` and what is added to it.

        Args:
            read: what entries read; `value` by default.
        """
        read = value if read is None else read
        if self.merge is not None and len(self.mix) > 1:
            added = torch.stack([self.entries[index](read) for index in self.mix])
            return value + self.merge(added, torch.tensor([*self.mix.values()]).to(added))
        for index, weight in self.mix.items():
            added = self.entries[index](read)
            value = value + (added if weight == 1 else weight * added)
        return value

    def get_extra_state(self) -> tuple[int, dict[int, float]]:
        return len(self), dict(self.mix)

    def set_extra_state(self, state: tuple[int, dict[int, float]]) -> None:
        # This runs before the entries' own states are loaded.
        count, mix = state
        for _ in range(count - len(self)):
            self.add()
        self.entries, self.mix = self.entries[:count], dict(mix)


def banks(module: nn.Module) -> list[Bank]:
    """All banks in `module`, in the order of its modules."""
    return [part for part in module.modules() if isinstance(part, Bank)]


def draw(module: nn.Module, stream: Callable[[int], torch.Generator]) -> None:
    """Draws the newest entry of every bank, each from the stream of its number."""
    for index, bank in enumerate(banks(module)):
        bank.newest.draw(stream(index))


def draw_next(module: nn.Module, number: int, stream: Callable[[int], torch.Generator]) -> None:
    """Draws entry `number` of every bank, of which banks begin with the first and get each other one here."""
    if number:
        for bank in banks(module):
            bank.add()
    draw(module, stream)


def use(module: nn.Module, mix: Mapping[int, float], merge: Merge | None = None) -> None:
    """Sets the mix of every bank, and how it merges; an empty mix leaves the network as it was before."""
    for bank in banks(module):
        bank.mix, bank.merge = dict(mix), merge


@contextmanager
def mixed(module: nn.Module, mix: Mapping[int, float], merge: Merge | None = None) -> Iterator[None]:
    """Inside, every bank has this mix, and merges in this way."""
    before = [(bank, bank.mix, bank.merge) for bank in banks(module)]
    use(module, mix, merge)
    try:
        yield
    finally:
        for bank, own, how in before:
            bank.mix, bank.merge = own, how


def tuning_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the newest entries and of prompts, by their names in `module`."""
    prompts = (part for part in module.modules() if isinstance(part, Prompts))
    wanted = {id(p) for part in [*(bank.newest for bank in banks(module)), *prompts] for p in part.parameters()}
    return {name: parameter for name, parameter in module.named_parameters() if id(parameter) in wanted}
