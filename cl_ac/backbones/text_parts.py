"""Parts of a language model of Hugging Face as stages: its embeddings, a layer, and what follows the layers.

Shapes: B batch, T tokens, D features.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl_ac.backbones.calls import first_tensor
from cl_ac.data.layouts import read
from cl_ac.data.texts import joined, parted, tokens


class Embeddings(nn.Module):
    """What a language model makes of token numbers before its first layer: [B, 1, 1, length] to [B, T, D + 1].

    Args:
        model: without its layers and what follows them.
        padding: the token number that stands for none.
    """

    def __init__(self, model: nn.Module, padding: int):
        super().__init__()
        self.model, self.padding = model, padding

    def forward(self, inputs: Tensor) -> Tensor:
        numbers, real = tokens(inputs)
        numbers = numbers.masked_fill(~real, self.padding)
        # Without a mask, which only layers need: with padding behind the ends, positions are the same.
        return joined(first_tensor(self.model(numbers, **without_cache(self.model))), real)


class Layer(nn.Module):
    """One layer: hidden states to hidden states, [B, T, D + 1], of which padding is never read.

    Args:
        layer: the model's own.
        given: its other arguments for texts of the greatest length, by name.
        growing: of the tensors among them, which axes are as long as texts are.
        visible: which token may read which, [T, T] or [1, 1] for all, of the greatest length.
        adds: whether a mask is added to scores, in place of saying what is read.
    """

    visible: Tensor

    def __init__(
        self,
        layer: nn.Module,
        given: Mapping[str, Any],
        growing: Mapping[str, Sequence[int]],
        visible: Tensor,
        adds: bool,
    ):
        super().__init__()
        self.layer, self.adds = layer, adds
        self.others, self.tensors = {}, dict[str, tuple[int, ...]]()
        for name, value in given.items():
            if isinstance(value, Tensor):
                self.tensors[name] = tuple(growing[name])
                self.register_buffer(f"given_{name}", value, persistent=False)
            elif isinstance(value, tuple) and all(isinstance(part, Tensor) for part in value):
                self.tensors[name] = tuple(growing[name])
                self.register_buffer(f"given_{name}", torch.stack(value), persistent=False)
            else:
                self.others[name] = value
        self.pairs = {name for name, value in given.items() if isinstance(value, tuple)}
        self.register_buffer("visible", visible, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        values, real = parted(hidden)
        length = values.shape[1]
        options = dict(self.others)
        for name, axes in self.tensors.items():
            value = getattr(self, f"given_{name}")
            for axis in axes:
                value = value.narrow(axis, 0, length)
            options[name] = tuple(value) if name in self.pairs else value
        visible = self.visible[:length, :length]
        # Padding reads itself, so that no row of scores is without a number.
        itself = torch.eye(length, dtype=torch.bool, device=real.device)
        mask = (visible & (real[:, None] | itself))[:, None]
        if self.adds:
            mask = torch.zeros_like(mask, dtype=values.dtype).masked_fill(~mask, torch.finfo(values.dtype).min)
        return joined(first_tensor(self.layer(values, attention_mask=mask, **options)), real)


class Ending(nn.Module):
    """What follows the layers, and the vector [B, D] that speaks for a text.

    Args:
        modules: such as a norm, in order.
        layout: how tokens become a vector, one of `TEXT_READINGS`.
    """

    def __init__(self, modules: Sequence[nn.Module], layout: str):
        super().__init__()
        self.after, self.layout = nn.Sequential(*modules), layout

    def forward(self, hidden: Tensor) -> Tensor:
        values, real = parted(hidden)
        return read(joined(self.after(values), real), self.layout)[:, 0]


def without_cache(model: nn.Module) -> dict[str, Any]:
    """Arguments that keep a model from remembering what it has read."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
