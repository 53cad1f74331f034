"""Prompts: what a frozen transformer is told beside an image.

Legend: B batch, D model width, N prompts or parts of prompts, L tokens of a prompt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from cl_ac.data.growing import Growing
from cl_ac.errors import ConfigurationError


class Lesson:
    """What prompts saw in a pass that they learn from.

    Args:
        query: the frozen network's features of the images [B, D].
    """

    query: Tensor


class Prompts(Growing):
    """All prompts of one transformer. A subclass says what each block is told.

    `reads_query` says whether that depends on the query: what the frozen network alone makes of an image, the features
    [B, D] that its last stage gives. `stay` says whether tokens stay in the sequence for later blocks, or leave it
    behind their block. `speak` says that the mean of the tokens that stay stands for the image, in place of the class
    token. Prompts that are not `at_work` are carried along where they stay, and no block reads them.
    """

    reads_query: ClassVar[bool] = True
    stay: bool = False
    speak: bool = False
    at_work: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.lesson: Lesson | None = None

    @contextmanager
    def learning(self) -> Iterator[Lesson]:
        """Passes that prompts learn from run in this context, and leave there what prompts saw."""
        self.lesson = Lesson()
        try:
            yield self.lesson
        finally:
            self.lesson = None

    def told(self, block: int, query: Tensor | None, tokens: Tensor) -> Tensor | None:
        """What the block at index `block` is told; None for nothing.

        Args:
            query: [B, D]; None if `reads_query` is false.
            tokens: what the block reads [B, T, D].
        Returns:
            Tokens [B, L, D] that join the sequence, or [B, 2, L, D]: keys and values that join those of the attention.
        """
        raise NotImplementedError


class TaskPrompts(Prompts):
    """Prompts of which each task adds some; those of earlier tasks are frozen.

    New ones take part in answers from the first pass on in which they learn. `old_…` and `new_…` are parameters [N,
    ...] for each name that `grow` is given.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.names = tuple(shapes)
        self.take_part = False
        for name, shape in shapes.items():
            self.register_parameter(f"old_{name}", nn.Parameter(torch.empty(0, *shape), requires_grad=False))
            self.register_parameter(f"new_{name}", nn.Parameter(torch.empty(0, *shape)))

    def grow(self, **new: Tensor) -> None:
        """Adds prompts, and freezes those that there are."""
        for name, values in new.items():
            old = self.all(name, new_too=True).detach()
            setattr(self, f"old_{name}", nn.Parameter(old, requires_grad=False))
            setattr(self, f"new_{name}", nn.Parameter(values.to(old)))
        self.take_part = False

    def all(self, name: str, new_too: bool | None = None) -> Tensor:
        """The values [N, ...] of all prompts.

        Args:
            new_too: whether those of the newest task count; by default if they take part.
        """
        old, new = getattr(self, f"old_{name}"), getattr(self, f"new_{name}")
        return torch.cat([old, new]) if (self.take_part if new_too is None else new_too) else old

    @contextmanager
    def learning(self) -> Iterator[Lesson]:
        self.take_part = True
        with super().learning() as lesson:
            yield lesson

    def get_extra_state(self) -> bool:
        return self.take_part

    def set_extra_state(self, state: bool) -> None:
        self.take_part = state


class VisualPrompts(Prompts):
    """The same tokens for every image (visual prompt tuning, Jia et al., 2022), zero at first.

    Args:
        blocks: how many blocks the transformer has.
        length: L.
        width: D.
        deep: whether each block has tokens of its own, which leave behind it; else those of the first block stay.
    Raises:
        ConfigurationError: if they have no token.
    """

    reads_query = False

    def __init__(self, blocks: int, length: int, width: int, deep: bool = True):
        super().__init__()
        if length < 1:
            raise ConfigurationError(f"the length of prompts is {length}; it must be at least 1")
        self.stay = not deep
        self.tokens = nn.Parameter(torch.zeros(blocks if deep else 1, length, width))

    def told(self, block: int, query: Tensor | None, tokens: Tensor) -> Tensor | None:
        if block >= len(self.tokens):
            return None
        return self.tokens[block].expand(len(tokens), -1, -1)

    def get_extra_state(self) -> bool:
        return self.at_work

    def set_extra_state(self, state: bool) -> None:
        self.at_work = state


class Prefixes(Prompts):
    """The same keys and values for every image in each of the first blocks (prefix tuning, Li & Liang, 2021).

    Args:
        blocks: how many.
        length: L, keys and as many values.
        width: D.
    """

    reads_query = False

    def __init__(self, blocks: int, length: int, width: int):
        super().__init__()
        self.pairs = nn.Parameter(torch.zeros(blocks, 2, length, width))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draws them between -1 and 1, as those of prompts that are drawn."""
        self.pairs.copy_(2 * torch.rand(self.pairs.shape, generator=generator) - 1)

    def told(self, block: int, query: Tensor | None, tokens: Tensor) -> Tensor | None:
        return self.pairs[block].expand(len(tokens), -1, -1, -1) if block < len(self.pairs) else None
