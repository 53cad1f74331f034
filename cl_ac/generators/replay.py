"""What one step replays: samples of old classes that enter a network at some places.

A place is the number of stages that have run, see `cl_ac.network.entering`. N replayed samples, L levels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from cl_ac.generators.generator import Generator
from cl_ac.losses import cross_entropy, padded_distillation


@dataclass(frozen=True)
class Replay:
    """Samples of old classes, ordered by the place at which they enter.

    Args:
        classes: that were asked for, int64 [N].
        entering: features by the place at which they enter the network.
        taught: the same samples by the place at which they enter the teacher.
        rehearsed: the features of all L levels of further samples, or of the same, that the generator itself learns.
        rehearsed_classes: of these.
    """

    classes: Tensor
    entering: Mapping[int, Tensor]
    taught: Mapping[int, Tensor]
    rehearsed: list[Tensor]
    rehearsed_classes: Tensor


def draw_replay(
    generator: Generator,
    places: Sequence[int],
    counts: Sequence[int],
    rehearsed: int,
    classes: int,
    streams: Callable[[int], torch.Generator],
    device: torch.device,
    whole: bool = False,
) -> Replay:
    """Draws samples of the first `classes` classes, each as likely as the others, and decodes each as far as needed.

    Args:
        places: at which the generator's levels are [L].
        counts: how many samples enter at each level [L].
        rehearsed: how many samples the generator learns again itself; those that enter at level 0 are the first ones.
        streams: gives a stream of random draws for each number.
        whole: whether the teacher sees level 0 of all samples, and so all are decoded to there.
    """
    first = max(counts[0], rehearsed)
    drawn = [first, *counts[1:]]
    labels = torch.randint(classes, (sum(drawn),), generator=streams(1)).to(device, non_blocking=True).split(drawn)
    shallowest = generator.sample(labels[0], range(len(places)), streams(2)) if first else []
    entering, taught = {}, []
    for level, (place, count) in enumerate(zip(places, counts, strict=True)):
        if not count:
            continue
        wanted = [level, 0] if whole else [level]
        found = [shallowest[0][:count]] if not level else generator.sample(labels[level], wanted, streams(2 + level))
        entering[place] = found[0]
        taught.append(found[-1])
    replayed = torch.cat([labels[0][: counts[0]], *labels[1:]])
    of_generator = [value[:rehearsed] for value in shallowest]
    seen = {places[0]: torch.cat(taught)} if whole else entering
    return Replay(replayed, entering, seen, of_generator, labels[0][:rehearsed])


def losses_of_exits(
    answers: Sequence[Tensor], classes: Tensor, taught: Sequence[Tensor | None], temperature: float | None
) -> list[Tensor | None]:
    """What each of E exits loses on the samples that reach it, [] each; None where none do.

    Args:
        answers: the logits of each exit for the first N_e samples [N_e, C].
        classes: that the samples are of, int64 [N]; learned where there is no teacher.
        taught: the teacher's logits of each exit [at least N_e, C_old], the final exit last. They are learned at a
            `temperature`; without one, the class that its final exit takes a sample for.
    """
    known = classes if taught[-1] is None else taught[-1].argmax(-1)
    found: list[Tensor | None] = []
    for index, logits in enumerate(answers):
        rows = len(logits)
        if not rows:
            found.append(None)
        elif temperature is None:
            found.append(cross_entropy(logits[None], known[:rows])[0])
        else:
            wanted = cast(Tensor, taught[index])
            found.append(padded_distillation(logits[None], wanted[None, :rows], temperature)[0])
    return found


def weighed(new: Tensor, kept: Sequence[Tensor | None], alone: Tensor, weight: float) -> Tensor:
    """`weight` times the loss on new images plus `1 − weight` times that on samples, of each exit [E].

    Args:
        new: loss on new images among all classes [E].
        kept: loss on samples [] of each exit; None for an exit that none reaches.
        alone: loss on new images [E] where there are no samples.
    """
    rows = zip(new, kept, alone, strict=True)
    return torch.stack([c if b is None else weight * a + (1 - weight) * b for a, b, c in rows])
