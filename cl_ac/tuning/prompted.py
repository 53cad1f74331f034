"""A frozen backbone with prompts in its transformer blocks.

What prompts need to know of an image, the query, travels with its tokens as one more token, which no block reads. So
the parts of a network between two exits stay functions of one tensor, and any of its images may leave early.

Legend: B batch, T tokens of an image without prompts, D model width, L tokens of a prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from cl_ac.backbones.attention import SelfAttention, find_attentions
from cl_ac.data.recognised import Recognised
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.processes.passes import joined
from cl_ac.tuning.blocks import Transformer, transformer
from cl_ac.tuning.prompts import Prompts

AnyPrompts = TypeVar("AnyPrompts", bound=Prompts)


class PrefixAttention(nn.Module):
    """A self-attention whose keys and values others may join, called as it was.

    Args:
        attention: as it was found.
    """

    def __init__(self, attention: SelfAttention):
        super().__init__()
        self.module = attention.module
        self._described = attention
        self._prefix: Tensor | None = None

    @contextmanager
    def joined_by(self, prefix: Tensor) -> Iterator[None]:
        """Keys and values [B, 2, L, D] join in meanwhile."""
        self._prefix = prefix
        try:
            yield
        finally:
            self._prefix = None

    def forward(self, tokens: Tensor, *rest: Any, **named: Any) -> Any:
        if self._prefix is None:
            return self.module(tokens, *rest, **named)
        if self._described.module is not self.module:
            # Somebody has put another one in its place since.
            self._described = find_attentions(self.module)[""]
        query, key, value = self._described.project(tokens)
        # [B, 2, L, D] to two of [B, heads, L, D / heads]
        keys, values = self._prefix.to(key.dtype).unflatten(-1, (self._described.heads, -1)).transpose(2, 3).unbind(1)
        output = self._described.mix(query, torch.cat([keys, key], 2), torch.cat([values, value], 2))
        return (output, None) if self._described.several else output


class PromptedBlock(nn.Module):
    """A transformer block that is told something.

    It maps [B, T, D] to itself as the block alone does, if a query is to be made; else what it reads has the query as
    its last token, and the mean of the prompts first where that stands for the image.

    Args:
        block: maps tokens [B, ..., D] to tokens.
        attention: the one inside it.
        prompts: of the whole network; they belong to its first stage.
        index: which block it is.
        tokens: T.
        is_last: whether no other block follows, so that the query is left out of what it gives.
    """

    def __init__(
        self, block: nn.Module, attention: PrefixAttention, prompts: Prompts, index: int, tokens: int, is_last: bool
    ):
        super().__init__()
        self.block = block
        # Not as submodules, which they are elsewhere.
        self._elsewhere = attention, prompts
        self.index, self.tokens, self.is_last = index, tokens, is_last
        self._query: Tensor | None = None

    @contextmanager
    def asked(self, query: Tensor) -> Iterator[None]:
        """What it reads comes without a query meanwhile, which is `query` [B, D]."""
        self._query = query
        try:
            yield
        finally:
            self._query = None

    def forward(self, hidden: Tensor, *rest: Any, **named: Any) -> Tensor:
        attention, prompts = self._elsewhere

        def block(tokens: Tensor) -> Tensor:
            return self.block(tokens, *rest, **named)

        if self._query is not None:
            hidden = carrying(hidden, self._query)
        elif prompts.reads_query and hidden.shape[1] == self.tokens:
            return block(hidden)
        query = hidden[:, -1] if prompts.reads_query else None
        tokens = hidden if query is None else hidden[:, :-1]
        if self.index == 0:
            if prompts.lesson is not None and query is not None:
                prompts.lesson.query = joined(query)
        elif prompts.speak:
            tokens = tokens[:, 1:]
        told = prompts.told(self.index, query, tokens)
        if not prompts.at_work:
            unread = tokens[:, self.tokens :] if told is None else told.to(tokens.dtype)
            tokens = block(tokens[:, : self.tokens])
            tokens = torch.cat([tokens, unread], 1) if prompts.stay else tokens
        elif told is None:
            tokens = block(tokens)
        elif told.ndim == 4:
            with attention.joined_by(told):
                tokens = block(tokens)
        else:
            tokens = block(torch.cat([tokens, told.to(tokens.dtype)], 1))
            tokens = tokens if prompts.stay else tokens[:, : -told.shape[1]]
        if prompts.speak:
            tokens = torch.cat([tokens[:, self.tokens :].mean(1, keepdim=True), tokens], 1)
        return tokens if query is None or self.is_last else carrying(tokens, query)


class Queried(nn.Module):
    """The first stage of a prompted backbone, which makes the query first, by a pass of the whole frozen network.

    What the network makes of images that come again is computed once.

    Args:
        stage: the first stage.
        prompts: of the whole network.
        stages: of the backbone, of which this will be the first.
        first: the first block, if `stage` has it.
    """

    def __init__(self, stage: nn.Module, prompts: Prompts, stages: nn.ModuleList, first: PromptedBlock | None):
        super().__init__()
        self.stage, self.prompts = stage, prompts
        # Not as submodules, which they are elsewhere.
        self._elsewhere = stages, first

    def forward(self, images: Tensor) -> Tensor:
        first = self._elsewhere[1]
        if not self.prompts.reads_query:
            return self.stage(images)
        query = self.query(images)
        if first is None:
            return carrying(self.stage(images), query)
        with first.asked(query):
            return self.stage(images)

    @torch.no_grad()
    def query(self, images: Tensor) -> Tensor:
        """The features [B, D] of the network without prompts."""
        if not (isinstance(images, Recognised) and images.unchanged):
            return self._features(images)
        stages, own = self._elsewhere[0], {id(value) for value in self.prompts.parameters()}
        state = [value for value in [*stages.parameters(), *stages.buffers()] if id(value) not in own]
        (query,) = images.recall(images, state, "query", lambda pixels: [self._features(pixels)])
        return query

    def _features(self, images: Tensor) -> Tensor:
        hidden = self.stage(images)
        for stage in self._elsewhere[0][1:]:
            hidden = stage(hidden)
        return hidden


def carrying(tokens: Tensor, query: Tensor) -> Tensor:
    """Tokens [B, T, D] with the query [B, D] as their last one."""
    return torch.cat([tokens, query[:, None].to(tokens.dtype)], 1)


def promptable(backbone: Backbone, use: str) -> Transformer:
    """The transformer inside `backbone`, if it may be prompted.

    Args:
        use: what needs it, for the sentence that says that it may not.
    Raises:
        ConfigurationError: if there is none, its answer is not the class token's, or its tokens come too late.
    """
    found = transformer(backbone, use)
    name, shape = type(backbone).__name__, (found.tokens, found.width)
    means = [
        stage
        for stage, layout, size in zip(backbone.stage_names, backbone.layouts(), backbone.shapes(), strict=True)
        if layout == "tokens" and size == shape
    ]
    if not found.prefix_tokens or means or _reads_other_tokens(backbone, found):
        raise ConfigurationError(
            f"{use} needs a vision transformer whose class token answers, and the backbone {name} reads the mean of "
            "its tokens, where prompts would count; choose one with a class token"
        )
    if _first_stage(backbone, found) > 1:
        raise ConfigurationError(
            f"{use} needs a backbone whose first stage ends with tokens, and the first transformer block of {name} is "
            f"in its stage '{backbone.stage_names[_first_stage(backbone, found)]}'; join the stages before it"
        )
    return found


def add_prompts(backbone: Backbone, prompts: Prompts, found: Transformer) -> None:
    """Freezes a backbone and puts prompts into it; for `Approach.prepare`.

    Args:
        found: what `promptable` gave.
    """
    backbone.freeze("all")
    first, wrapped = _first_stage(backbone, found), []
    for index, block in enumerate(found.blocks):
        attention = PrefixAttention(block.attention)
        backbone.set_submodule(block.attention.name, attention)
        is_last = index + 1 == len(found.blocks)
        wrapped.append(PromptedBlock(block.module, attention, prompts, index, found.tokens, is_last))
        backbone.set_submodule(block.name, wrapped[-1])
    stages = cast(nn.ModuleList, backbone.stages)
    stages[0] = Queried(stages[0], prompts, stages, wrapped[0] if first == 0 else None)
    backbone.class_token_only = True
    # A prompt may look at the whole batch, and prompts that have not learned yet are passed over.
    backbone.known_by_weights = False
    backbone.eval()


def prompts_in(backbone: Backbone, kind: type[AnyPrompts]) -> AnyPrompts:
    """What `add_prompts` put there, of that kind."""
    return cast(AnyPrompts, cast(Queried, backbone.stages[0]).prompts)


def check_blocks(option: str, blocks: Sequence[int], found: Transformer) -> None:
    """Raises a `ConfigurationError` if an option names blocks that a transformer does not have, or one twice."""
    count = len(found.blocks)
    if len(set(blocks)) != len(blocks) or not all(0 <= block < count for block in blocks):
        raise ConfigurationError(
            f"{option} is {list(blocks)}, but the backbone has the transformer blocks 0 to {count - 1}; name each once"
        )


def _first_stage(backbone: Backbone, found: Transformer) -> int:
    """Index of the stage that has the first block."""
    inside = (found.blocks[0].module in set(stage.modules()) for stage in backbone.stages)
    return list(inside).index(True)


@torch.no_grad()
def _reads_other_tokens(backbone: Backbone, found: Transformer) -> bool:
    """Whether the features of a backbone depend on what the last block says of anything but the class token."""
    images = torch.zeros(1, *backbone.image_shape).to(next(backbone.parameters()))
    was_training = backbone.training
    backbone.eval()
    features = []
    for change in (0.0, 1.0):
        handle = found.blocks[-1].module.register_forward_hook(partial(_moved, change))
        hidden = images
        for stage in backbone.stages:
            hidden = stage(hidden)
        handle.remove()
        features.append(hidden)
    backbone.train(was_training)
    return not torch.equal(*features)


def _moved(change: float, module: nn.Module, given: tuple, tokens: Tensor) -> Tensor:
    """Tokens of which all but the first are another."""
    return torch.cat([tokens[:, :1], tokens[:, 1:] + change * torch.arange(tokens.shape[-1]).to(tokens)], 1)
