"""The transformer inside a backbone: its blocks in the order in which they run, and the tokens that they read.

Legend: D model width, B batch, T tokens, P patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from cl_ac.backbones.blocks import Block, find_blocks
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone


@dataclass(frozen=True)
class Transformer:
    """What a backbone's blocks read.

    Args:
        blocks: in the order in which they run.
        width: D.
        tokens: T of one image.
        prefix_tokens: how many of them are no patches and come first: class token, distillation token, registers.
        attention_norms: for each block, the path in the backbone of the norm that gives what the attention reads; None
            where something else gives it.
        feed_forward_norms: the same of what the feed-forward network reads.
    """

    blocks: Sequence[Block]
    width: int
    tokens: int
    prefix_tokens: int
    attention_norms: Sequence[str | None]
    feed_forward_norms: Sequence[str | None]


def transformer(backbone: Backbone, use: str) -> Transformer:
    """The transformer inside `backbone`, as one image shows it.

    Args:
        use: what needs it, for the sentence that says that there is none.
    Raises:
        ConfigurationError: if the backbone has no transformer blocks that run one after the other on tokens alone.
    """
    blocks = {block.module: block for block in find_blocks(backbone)}
    seen = _Seen(list(blocks.values()))
    handles = [module.register_forward_hook(seen.see, with_kwargs=True) for module in backbone.modules()]
    try:
        backbone.shapes()
    finally:
        for handle in handles:
            handle.remove()
    run = [blocks[module] for module in seen.order if module in blocks]
    if not run or len(run) != len(blocks) or seen.other_inputs or not seen.tokens >= seen.patches > 0:
        raise ConfigurationError(
            f"{use} needs a vision transformer, and the backbone {type(backbone).__name__} has no blocks of plain "
            "self-attention on patches; choose ViT, or torchvision:vit_b_16, or a ViT of timm"
        )
    names = {module: name for name, module in backbone.named_modules()}
    norms = [
        [names.get(seen.made_by(reader)) if seen.made_by(reader) is not None else None for reader in readers]
        for readers in ((block.attention.module, block.feed_forward.entry) for block in run)
    ]
    attention_norms, feed_forward_norms = zip(*norms, strict=True)
    prefix = seen.tokens - seen.patches
    return Transformer(run, run[0].width, seen.tokens, prefix, attention_norms, feed_forward_norms)


class _Seen:
    """What ran while hooks looked on: modules in order, who made what they read, and how many tokens there were."""

    def __init__(self, blocks: Sequence[Block]):
        self.order: list[nn.Module] = []
        self.tokens = self.patches = 0
        self.other_inputs = False
        self.plain = {block.module for block in blocks} | {block.attention.module for block in blocks}
        self.first = {block.module for block in blocks}
        # Outputs are kept, so that no other tensor gets their identity meanwhile.
        self.makers: dict[int, tuple[Tensor, nn.Module]] = {}
        self.inputs: dict[nn.Module, Tensor] = {}

    def see(self, module: nn.Module, given: tuple, named: dict[str, Any], output: Any) -> None:
        self.order.append(module)
        if given and isinstance(given[0], Tensor):
            self.inputs[module] = given[0]
        if isinstance(module, _ConvNd) and not self.tokens:
            self.patches = output[0, 0].numel()
        if module in self.plain:
            tensors = {id(value) for value in tree_leaves((given, named)) if isinstance(value, Tensor)}
            self.other_inputs |= len(tensors) != 1
        if module in self.first and not self.tokens:
            self.tokens = given[0].shape[1]
        if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm"):
            self.makers[id(output)] = output, module

    def made_by(self, reader: nn.Module) -> nn.Module | None:
        """The norm whose output a module read."""
        return self.makers.get(id(self.inputs.get(reader)), (None, None))[1]
