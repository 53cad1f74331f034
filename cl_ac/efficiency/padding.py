"""Which tokens of a batch of texts are real, and which only fill the shorter texts up.

Shapes: B texts, T tokens of the longest one.
"""

import inspect
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class RealTokens:
    """Knows, while the context is open, which tokens of a model's present call are no padding.

    The innermost call with the keyword `attention_mask` says it, as in Hugging Face's models: a mask [B, T] is 0 at
    padding, None is for no padding at all. Masks of other shapes, which a model makes for its layers, say nothing.
    """

    def __init__(self, model: nn.Module):
        self.told = [module for module in model.modules() if _takes_mask(module)]
        self.masks: list[Tensor | None] = [None]
        self.hooks: list[RemovableHandle] = []

    @property
    def mask(self) -> Tensor | None:
        """Bool [B, T]; None if all tokens are real."""
        return self.masks[-1]

    def of(self, values: Tensor) -> Tensor | None:
        """Which of the vectors [..., K] are real, bool [...]: see `real`."""
        return real(values, self.mask)

    def only(self, values: Tensor) -> Tensor:
        """The real ones of the vectors [..., K], [tokens, K]; `values` itself if all are."""
        return only_real(values, self.mask)

    def __enter__(self) -> Self:
        for module in self.told:
            self.hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks, self.masks = [], [None]

    def _enter(self, module: nn.Module, inputs: tuple, named: dict[str, Any]) -> None:
        self.masks.append(padding_mask(named, self.mask))

    def _leave(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        self.masks.pop()


def padding_mask(named: Any, outer: Tensor | None = None) -> Tensor | None:
    """Bool [B, T] of the real tokens of a call with these named arguments, in one with the mask `outer`."""
    if "attention_mask" not in named:
        return outer
    mask = named["attention_mask"]
    if mask is None:
        return None
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else outer


def real(values: Tensor, mask: Tensor | None) -> Tensor | None:
    """Which of the vectors [..., K] are real, bool [...], by the padding mask [B, T] of the call.

    None if all are: without a mask, or if the vectors are laid out neither as its tokens nor as its last ones [B, ≤ T]
    (the mask also covers tokens of earlier calls while text is generated), nor one after the other [B · T].
    """
    if mask is None:
        return None
    layout = values.shape[:-1]
    if layout == (mask.numel(),):
        return mask.flatten().to(values.device)
    if len(layout) == 2 and layout[0] == len(mask) and layout[1] <= mask.shape[1]:
        return mask[:, mask.shape[1] - layout[1] :].to(values.device)
    return None


def only_real(values: Tensor, mask: Tensor | None) -> Tensor:
    """The real ones of the vectors [..., K], [tokens, K]; `values` itself if all are."""
    kept = real(values, mask)
    return values if kept is None else values[kept]


def last_real(values: Tensor, mask: Tensor | None, share: float) -> Tensor:
    """A share of each text's vectors [B, T, K], from its last real one: [tokens, K]; at least one of each text."""
    kept = real(values, mask)
    kept = values.new_ones(values.shape[:-1], dtype=torch.bool) if kept is None else kept
    wanted = (share * kept.sum(1, keepdim=True)).round().clamp(min=1)
    # Real tokens from each one on.
    left = kept.flip(1).cumsum(1).flip(1)
    return values[kept & (left <= wanted)]


def _takes_mask(module: nn.Module) -> bool:
    """Whether the keyword `attention_mask` may be given to a module."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except ValueError:
        # Functions in C, which know no such keyword, tell nothing of their arguments.
        return False
    return any(each.name == "attention_mask" or each.kind is each.VAR_KEYWORD for each in parameters)
