"""Vision transformers of any size (Dosovitskiy et al., 2021), pre-norm with a class token.

Shapes: B batch, T tokens (the class token and one per patch), D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, Exits

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


class MLP(nn.Module):
    """`down(activation(up(x)))` with dropout after each linear layer: [..., D] to [..., D].

    Args:
        width: D.
        hidden: neurons.
        activation: `gelu` or `relu`.
        dropout: share of the hidden and of the output values that training zeroes.
        bias: whether the two layers have one.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.up = nn.Linear(width, hidden, bias)
        self.activation = ACTIVATIONS[activation]()
        self.down = nn.Linear(hidden, width, bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.drop(self.down(self.drop(self.activation(self.up(hidden)))))


class Attention(nn.Module):
    """Multi-head self-attention: [B, T, D] to [B, T, D]; no [T, T] matrix is kept where a fused kernel exists."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        # [B, T, 3·D] to three of [B, heads, T, D / heads]
        queries, keys, values = self.qkv(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.drop(self.proj(mixed.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention and MLP, each on normalised input and added to what came in."""

    def __init__(self, width: int, heads: int, mlp: MLP, dropout: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norm1(hidden))
        return hidden + self.mlp(self.norm2(hidden))


class Patches(nn.Module):
    """Images as tokens: [B, channels, height, width] to [B, T, D], class token first, learned positions added."""

    def __init__(self, image_shape: tuple[int, int, int], patch: int, width: int, dropout: float = 0.0):
        super().__init__()
        channels, height, image_width = image_shape
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (height // patch) * (image_width // patch), width))
        self.drop = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.drop(torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.positions)


class ClassToken(nn.Module):
    """The class token, normalised: [B, T, D] to [B, D]."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden[:, 0])


class ViT(Backbone):
    """A vision transformer; the defaults suit images of 8 × 8, and patch 16, width 768, depth 12, heads 12 is ViT-B/16.

    The stages are `patches`, `block_0` … and `token`. The preset `ln` hangs an AC, the layer-normalised class token
    with a linear layer, after every block but the last, as in the AC paper; `sparse` after every second block. An AC's
    weight grows linearly with its depth to 0.96 at the end: 0.08, 0.16, … for 12 blocks.

    Args:
        image_shape: channels, height and width.
        patch: side of the square patches.
        width: D.
        depth: blocks.
        heads: attention heads.
        expansion: neurons of an MLP per D.
        activation: of the MLPs.
        dropout: share of the values that training zeroes after the positions, attention and each layer of an MLP.

    Raises:
        ConfigurationError: if the patches do not tile the image, the heads do not divide the width, or a size is below
            1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch: int = 2,
        width: int = 64,
        depth: int = 6,
        heads: int = 4,
        expansion: float = 4.0,
        activation: Literal["gelu", "relu"] = "gelu",
        dropout: float = 0.0,
        **learning,
    ):
        for name, size in {"patch": patch, "width": width, "depth": depth, "heads": heads}.items():
            if size < 1:
                raise ConfigurationError(f"the backbone ViT has {name} {size}; it must be at least 1")
        if image_shape[1] % patch or image_shape[2] % patch:
            raise ConfigurationError(
                f"the backbone ViT has patch {patch}; it must divide the images' height {image_shape[1]} and width "
                f"{image_shape[2]}"
            )
        if width % heads:
            raise ConfigurationError(f"the backbone ViT has width {width}; it must be a multiple of its {heads} heads")
        if not 0 <= dropout < 1:
            raise ConfigurationError(f"the backbone ViT has dropout {dropout:g}; it must be at least 0 and below 1")
        hidden = round(expansion * width)
        if hidden < 1:
            raise ConfigurationError(f"the backbone ViT has expansion {expansion:g}; its MLPs need at least 1 neuron")
        stages: dict[str, nn.Module] = {"patches": Patches(image_shape, patch, width, dropout)}
        for index in range(depth):
            stages[f"block_{index}"] = Block(width, heads, MLP(width, hidden, activation, dropout), dropout)
        stages["token"] = ClassToken(width)
        super().__init__(image_shape, stages, **learning)
        self.apply(_initialise)

    @property
    def presets(self) -> Mapping[str, Exits]:  # type: ignore[override]
        """AC placements by name; they depend on the depth."""
        depth = len(self.stages) - 2
        every: list[str | int] = [f"block_{index}" for index in range(depth - 1)]
        weights = [round(0.96 * (index + 1) / depth, 4) for index in range(depth - 1)]
        return {"ln": Exits(every, weights), "sparse": Exits(every[1::2], weights[1::2])}


def _initialise(module: nn.Module) -> None:
    """As DeiT does (Touvron et al., 2021): normal values of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Patches):
        nn.init.trunc_normal_(module.class_token, std=0.02)
        nn.init.trunc_normal_(module.positions, std=0.02)
