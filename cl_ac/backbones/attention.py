"""The self-attention of any transformer, found by structure and described in one way.

Legend: D model width, B batch, T tokens, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.backbones.feed_forward import child, evaluating

Kind = Literal["query", "key", "value", "output"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Names where one layer gives queries, keys and values one after the other, and of the output.
FUSED = (("qkv", "proj"), ("c_attn", "c_proj"))
# Names of an attention module's projections, in the order of `KINDS`; "../" is the parent.
SEPARATE = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "proj"),
    ("query", "key", "value", "../output.dense"),
    ("query", "key", "value", "output"),
    *((f"{fused}.query", f"{fused}.key", f"{fused}.value", output) for fused, output in FUSED),
)
HEADS = ("heads", "num_heads", "num_attention_heads")


@dataclass(frozen=True)
class SelfAttention:
    """Multi-head self-attention without mask: what it computes, in parts between which something may be put.

    Args:
        module: maps tokens [B, T, D] to tokens, alone or as the first of several outputs.
        heads: H.
        layers: submodules of `module` that give queries, keys and values: one that gives all, or three; none for
            `torch.nn.MultiheadAttention`, whose weights are its own.
        output: the submodule that mixes the heads; "" where that is not done in `module`.
        several: whether `module` gives more than tokens; set where it is found.
        name: path of `module` in the model; set where it is found.
    """

    module: nn.Module
    heads: int
    layers: tuple[str, ...]
    output: str
    several: bool = False
    name: str = ""

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, T, D / H] of tokens [B, T, D]."""
        if isinstance(self.module, nn.MultiheadAttention):
            parts = F.linear(hidden, self.module.in_proj_weight, self.module.in_proj_bias).chunk(3, -1)
        elif len(self.layers) == 1:
            parts = self.module.get_submodule(self.layers[0])(hidden).chunk(3, -1)
        else:
            parts = tuple(self.module.get_submodule(layer)(hidden) for layer in self.layers)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        query_norm, key_norm = (child(self.module, name) for name in ("q_norm", "k_norm"))
        query = query if query_norm is None else query_norm(query)
        return query, key if key_norm is None else key_norm(key), value

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Tokens [B, T, D] of queries [B, H, T, D / H] and any number of keys and values, as in evaluation mode."""
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        norm = child(self.module, "norm")
        mixed = mixed if norm is None else norm(mixed)
        return self.module.get_submodule(self.output)(mixed) if self.output else mixed

    def rows(self, kind: Literal["query", "key", "value"]) -> tuple[nn.Module, str, slice]:
        """Where the weight of a projection is: the module, the name of its parameter, and the rows there.

        The bias, if any, has the same rows.
        """
        place = KINDS.index(kind)
        if len(self.layers) == 3:
            layer = self.module.get_submodule(self.layers[place])
            return layer, "weight", slice(0, layer.weight.shape[0])
        own = isinstance(self.module, nn.MultiheadAttention)
        layer = self.module if own else self.module.get_submodule(self.layers[0])
        name = "in_proj_weight" if own else "weight"
        third = getattr(layer, name).shape[0] // 3
        return layer, name, slice(place * third, (place + 1) * third)


def find_attentions(model: nn.Module) -> dict[str, SelfAttention]:
    """Every self-attention of `model` by the path of its module, in the order of the model's modules.

    Known are our ViT's, `torch.nn.MultiheadAttention` with the batch first, timm's, and Hugging Face's as in BERT, ViT
    and DINOv2. What the names of its parts say is believed only if it computes what the module does, on random tokens:
    attention with masks, relative positions or windows is left out.
    """
    found = {}
    for name, module in model.named_modules():
        described = next(filter(None, map(_checked, _candidates(module))), None)
        if described is not None and not any(name.startswith(f"{outer}.") for outer in found if outer):
            found[name] = replace(described, name=name)
    return found


def _candidates(module: nn.Module) -> Sequence[SelfAttention]:
    heads = next((count for name in HEADS if isinstance(count := getattr(module, name, None), int)), None)
    if heads is None:
        return []
    if isinstance(module, nn.MultiheadAttention):
        plain = module.batch_first and module.in_proj_weight is not None
        return [SelfAttention(module, heads, (), "out_proj")] if plain else []
    fused = [
        SelfAttention(module, heads, (both,), output)
        for both, output in FUSED
        if child(module, both) is not None and child(module, output) is not None
    ]
    separate = [
        SelfAttention(module, heads, names[:3], "" if names[3].startswith("../") else names[3])
        for names in SEPARATE
        if all(child(module, name) is not None for name in names if not name.startswith("../"))
    ]
    return [*fused, *separate]


@torch.no_grad()
def _checked(described: SelfAttention) -> SelfAttention | None:
    """`described` if its parts give what its module gives in evaluation mode; on the meta device always."""
    module = described.module
    weight = next(module.parameters(), None)
    if weight is None or weight.is_meta:
        return None if weight is None else described
    with evaluating(module), torch.autocast(weight.device.type, enabled=False):
        try:
            layer, name, _ = described.rows("query")
            tokens = random_tokens(getattr(layer, name))
            output, several = attend(module, tokens)
            expected = described.mix(*described.project(tokens))
        # A module that is no such attention after all may ask for anything else.
        except Exception:
            return None
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return None
    tolerance = 1e-4 if weight.dtype in (torch.float32, torch.float64) else 3e-2
    close = bool((output - expected).abs().max() <= tolerance * expected.abs().max())
    return replace(described, several=several) if close else None


def attend(module: nn.Module, tokens: Tensor) -> tuple[Tensor, bool]:
    """What an attention module gives for tokens [B, T, D] that attend to each other, and whether it gives more."""
    three = hasattr(module, "batch_first")
    output = module(tokens, tokens, tokens) if three else module(tokens)
    return (output[0], True) if isinstance(output, tuple) else (output, False)


def random_tokens(weight: Tensor) -> Tensor:
    """A few tokens [2, 3, D], always the same, for layers with weights like `weight` [..., D]."""
    return torch.randn(2, 3, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight)
