"""Texts as tensors: rows of token numbers, and hidden states that carry which of their tokens are real.

A text is stored as a row [1, 1, T] of token numbers with `PADDING` behind its end, so that whatever holds images holds
texts. A hidden state [B, T, D + 1] has a last channel that is 1 for real tokens and 0 for padding: a batch may be cut
anywhere, kept or answered in part, and never loses its mask.

Shapes: B batch, T tokens, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_ac.data.augmentation import Augmentation

PADDING = -1


@dataclass(frozen=True)
class AsTheyAre(Augmentation):
    """Texts become inputs as they are stored, as floats, which are exact up to 2²⁴."""

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> None:
        return None

    def apply(self, images: Tensor, windows: Tensor | None = None) -> Tensor:
        return images.float()


def padded(texts: Sequence[Sequence[int]], length: int) -> Tensor:
    """Token numbers of texts as they are stored: int32 [N, 1, 1, length]."""
    rows = [torch.tensor(text, dtype=torch.int32) for text in texts]
    together = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)
    free = torch.full((len(rows), length - together.shape[1]), PADDING, dtype=torch.int32)
    return torch.cat([together, free], 1)[:, None, None]


def tokens(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Token numbers [B, T] and which are real [B, T], of inputs [B, 1, 1, length]; T is that of the longest text.

    Padding has the number 0.
    """
    numbers = inputs.flatten(1).long()
    real = numbers != PADDING
    # How long it is cannot be asked where one sample stands for many (vmap), or numbers for any (export).
    transformed = torch._C._functorch.peek_interpreter_stack() is not None or torch.compiler.is_exporting()
    if not transformed and len(inputs):
        longest = max(int(real.sum(1).max()), 1)
        numbers, real = numbers[:, :longest], real[:, :longest]
    return numbers.clamp(min=0), real


def joined(hidden: Tensor, real: Tensor) -> Tensor:
    """[B, T, D + 1] of hidden states [B, T, D] and which tokens are real [B, T]."""
    return torch.cat([hidden, real[:, :, None].to(hidden.dtype)], 2)


def parted(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states [B, T, D] and which tokens are real [B, T], of what `joined` gave."""
    return hidden[:, :, :-1], hidden[:, :, -1] > 0.5


def first_token(hidden: Tensor) -> Tensor:
    """[B, D] of what `joined` gave: the class token of models that have one."""
    return hidden[:, 0, :-1]


def mean_of_tokens(hidden: Tensor) -> Tensor:
    """The mean over real tokens [B, D], of what `joined` gave."""
    values, real = parted(hidden)
    weight = real.to(values.dtype)[:, :, None]
    return values.masked_fill(~real[:, :, None], 0).sum(1) / weight.sum(1).clamp(min=1)


def last_token(hidden: Tensor) -> Tensor:
    """The last real token [B, D], of what `joined` gave."""
    values, real = parted(hidden)
    last = (real.sum(1) - 1).clamp(min=0)
    return values.gather(1, last[:, None, None].expand(-1, 1, values.shape[2]))[:, 0]
