"""Attention modules with a layer of its own for each projection.

Legend: D model width, B batch, T tokens.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.attention import FUSED, KINDS, SEPARATE, Kind
from cl_ac.backbones.feed_forward import linear_weights


class Joined(nn.Module):
    """Layers that read the same input, their outputs side by side: a fused projection with its parts apart."""

    def __init__(self, parts: Mapping[str, nn.Module]):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([part(hidden) for part in self.children()], -1)


class SplitAttention(nn.Module):
    """`torch.nn.MultiheadAttention` with a layer for each projection; called alike, but never gives attention weights.

    No [T, T] matrix is kept where PyTorch has a fused kernel.

    Args:
        attention: shares no memory with this module.
    """

    # Transformer layers of PyTorch ask for these before they choose their fused kernel, which would bypass this one.
    in_proj_bias = None
    _qkv_same_embed_dim = True

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.heads, self.dropout = attention.num_heads, attention.dropout
        self.batch_first = attention.batch_first
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = map(_linear, attention.in_proj_weight.chunk(3), biases)
        self.output = _linear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """As of `torch.nn.MultiheadAttention`; `is_causal` is a hint only, as `attn_mask` comes with it."""
        batched = query.dim() == 3
        swapped = batched and not self.batch_first
        parts = []
        for layer, tokens in ((self.query, query), (self.key, key), (self.value, value)):
            tokens = layer(tokens if batched else tokens[None])
            tokens = tokens.transpose(0, 1) if swapped else tokens
            parts.append(tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2))  # [B, heads, T, D / heads]
        mask = _additive(attn_mask, query.dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.heads))
        padding = _additive(key_padding_mask, query.dtype)
        if padding is not None:
            padding = (padding if batched else padding[None])[:, None, None]
            mask = padding if mask is None else mask + padding
        mixed = F.scaled_dot_product_attention(*parts, attn_mask=mask, dropout_p=self.dropout * self.training)
        mixed = mixed.transpose(1, 2).flatten(2)  # [B, T, D]
        output = self.output(mixed.transpose(0, 1) if swapped else mixed)
        return output if batched else output[0], None


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask of `torch.nn.MultiheadAttention`, in which True hides, as what is added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with a copy of the weights [out, in]."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias is not None, device="meta").to_empty(device=weight.device)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def split_projections(model: nn.Module) -> dict[str, Kind]:
    """Gives every attention projection of `model` a linear layer of its own, in place; the output stays the same.

    Known are our ViT, `torch.nn.MultiheadAttention`, timm's attention, and Hugging Face's as in BERT, GPT-2 and Llama.

    Returns:
        Path and kind of each square projection, in the order of the model; keys and values of grouped-query attention
        are narrower than the model and left out, as they cannot become experts.
    """
    for path, module in list(model.named_modules()):
        if type(module) is nn.MultiheadAttention and path and _can_split(module):
            model.set_submodule(path, SplitAttention(module).train(module.training))
        for fused, output in FUSED:
            both, proj = (linear_weights(_at(model, path, name)) for name in (fused, output))
            # Some of timm's attentions add biases of their own and read the weight without calling the layer.
            if both is None or proj is None or hasattr(module, "q_bias") or both[0].shape[0] != 3 * both[0].shape[1]:
                continue
            biases = [None] * 3 if both[1] is None else both[1].chunk(3)
            parts: dict[str, nn.Module] = dict(zip(KINDS, map(_linear, both[0].chunk(3), biases), strict=False))
            model.set_submodule(_join(path, fused), Joined(parts).train(module.training))
    return _square_projections(model)


def _square_projections(model: nn.Module) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for path, _ in model.named_modules():
        for names in SEPARATE:
            layers = [linear_weights(_at(model, path, name)) for name in names]
            if all(layers):
                paths = (_join(path, name) for name in names)
                kinds = zip(paths, KINDS, layers, strict=True)
                found |= {each: kind for each, kind, (weight, _) in kinds if weight.shape[0] == weight.shape[1]}
    return found


def _can_split(attention: nn.MultiheadAttention) -> bool:
    return attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn


def _join(path: str, name: str) -> str:
    """The path of `name` seen from the module at `path`."""
    if name.startswith("../"):
        path, name = path.rpartition(".")[0], name.removeprefix("../")
    return ".".join(filter(None, (path, name)))


def _at(model: nn.Module, path: str, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(_join(path, name))
    except AttributeError:
        return None
