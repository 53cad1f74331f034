"""The blocks of any transformer: a self-attention and the feed-forward network that follows it.

Legend: D model width, B batch, T tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cl_ac.backbones.attention import SelfAttention, find_attentions, random_tokens
from cl_ac.backbones.feed_forward import FeedForward, evaluating, find_feed_forwards


@dataclass(frozen=True)
class Block:
    """A transformer block.

    Args:
        module: maps tokens [B, T, D] to tokens [B, T, D], for any T, and leaves its input as it is.
        name: path of `module` in the model.
        attention: inside it, with its path in the model.
        feed_forward: inside it, with its path in the model.
    """

    module: nn.Module
    name: str
    attention: SelfAttention
    feed_forward: FeedForward

    @property
    def width(self) -> int:
        """D."""
        return self.feed_forward.width


def find_blocks(model: nn.Module) -> list[Block]:
    """Every transformer block of `model`, in the order of its modules.

    A block is the smallest module that holds one self-attention and one feed-forward network; it is believed only if it
    maps random tokens to tokens.
    """
    attentions, feed_forwards = find_attentions(model), find_feed_forwards(model)
    modules = dict(model.named_modules())
    blocks = []
    for attention in attentions.values():
        name = attention.name
        while name:
            name = name.rpartition(".")[0]
            inside = [each for each in feed_forwards.values() if _holds(name, each.name)]
            if not inside:
                continue
            alone = len(inside) == 1 and sum(_holds(name, other) for other in attentions) == 1
            if alone and maps_tokens(modules[name], inside[0].up):
                blocks.append(Block(modules[name], name, attention, inside[0]))
            break
    return blocks


def _holds(outer: str, name: str) -> bool:
    return not outer or name.startswith(f"{outer}.") or name == outer


@torch.no_grad()
def maps_tokens(module: nn.Module, weight: Tensor) -> bool:
    """Whether a module, in evaluation mode, gives a tensor of the shape of the tokens [B, T, D] that it is called with.

    Args:
        weight: like those of the module, [..., D].
    """
    if weight.is_meta:
        return True
    tokens = random_tokens(weight)
    before = tokens.clone()
    with evaluating(module), torch.autocast(weight.device.type, enabled=False):
        try:
            output = module(tokens)
        # Any module may ask for anything else.
        except Exception:
            return False
    return isinstance(output, Tensor) and output.shape == before.shape and torch.equal(tokens, before)
