"""Passes in which features enter a network above its first stage: neither forward nor backward runs below them.

A place is the number of stages that have run: 0 is where images enter, and S, the number of all stages, where the final
head reads. Rows of a batch are ordered by their place.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cl_ac.network.exit_network import ExitNetwork


def run_places(
    network: ExitNetwork, images: Tensor | None, entering: Mapping[int, Tensor], needed: Iterable[int] = ()
) -> list[Tensor | None]:
    """What passes each of the S + 1 places, as one batch of all that has entered by then.

    So batch norm sees images and features together.

    Args:
        images: [B, channels, height, width], which come first; None if there are only features.
        entering: features [B_n, ...] by the place at which they join.
        needed: places whose outputs the caller reads, beside those of exits.
    Returns:
        One tensor for each place; None where nothing has entered yet, or where frozen stages did not have to run.
    """
    stages = network.backbone.stages
    outputs: list[Tensor | None] = [None] * (len(stages) + 1)
    hidden, first = images, 0
    if images is not None and min(entering, default=len(stages)) >= network.backbone.frozen_stages:
        known = network.known_outputs(images, [place for place in needed if place])
        for place, value in known.items():
            outputs[place] = value
        if known:
            outputs[0], first = images, max(known)
            hidden = outputs[first]
    for place in range(first, len(outputs)):
        if place > first and hidden is not None:
            hidden = stages[place - 1](hidden)
        if place in entering:
            hidden = entering[place] if hidden is None else torch.cat([hidden, entering[place]])
        outputs[place] = hidden
    return outputs


def answers_of(network: ExitNetwork, outputs: list[Tensor | None]) -> list[Tensor | None]:
    """The logits [B_e, C] of each exit for the rows that have entered by its place; None where there are none.

    Exits below all rows give no logits, and so get no gradient. Heads must not read each other's logits
    (`exits.cascade`).

    Args:
        outputs: of `run_places`.
    """
    found: list[Tensor | None] = []
    for head, (_, end) in zip(network.heads, network.bounds, strict=True):
        value = outputs[end]
        if value is not None and network.exits.detach and end < len(outputs) - 1:
            value = value.detach()
        found.append(None if value is None else head.answer(head.reduce(value)).float())
    return found
