"""Backbones that gain a branch with a task: a copy of the newest stages that learns while the earlier ones are frozen.

Shapes: B batch, E exits, D_i features of exit i.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cl_ac.data.copying import copied
from cl_ac.data.layouts import AXES, Layout, read_shape
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, ExitNetwork


class Branched(nn.Module):
    """A stage of one branch or several, whose outputs are joined along the channels, the newest last.

    All branches but the newest are frozen and stay in evaluation mode. A state with more or fewer branches is taken
    over as it is.

    Args:
        stage: the first branch.
        joins: axis of the channels in the output.
        divides: axis of the channels along which the input is divided among the branches; None where all read the same.
    """

    def __init__(self, stage: nn.Module, joins: int, divides: int | None):
        super().__init__()
        self.branches = nn.ModuleList([stage])
        self.joins, self.divides = joins, divides

    def __len__(self) -> int:
        return len(self.branches)

    def branch(self) -> None:
        """Freezes what there is and adds a copy of the newest branch."""
        newest = copied(self.branches[-1])
        self.branches.append(newest)
        self._freeze()

    def _freeze(self) -> None:
        for earlier in self.branches[:-1]:
            earlier.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Branched":
        super().train(mode)
        for earlier in self.branches[:-1]:
            earlier.eval()
        return self

    def forward(self, hidden: Tensor) -> Tensor:
        if len(self) == 1:
            return self.branches[0](hidden)
        parts = None if self.divides is None else hidden.chunk(len(self), self.divides)
        outputs = [branch(hidden if parts is None else parts[index]) for index, branch in enumerate(self.branches)]
        return torch.cat(outputs, self.joins)

    def get_extra_state(self) -> int:
        return len(self)

    def set_extra_state(self, state: int) -> None:
        # This runs before the branches' own states are loaded.
        for _ in range(state - len(self)):
            self.branch()
        self.branches = self.branches[:state]
        self._freeze()


def make_branching(backbone: Backbone, first: int = 0) -> None:
    """Lets the stages from index `first` on branch; for `Approach.prepare`.

    Raises:
        ConfigurationError: if nothing tells where the channels of a stage's output stand.
    """
    layouts = backbone.layouts()
    for name, layout in zip(backbone.stage_names[first:], layouts[first:], strict=True):
        if layout is None:
            raise ConfigurationError(
                f"the stage '{name}' of the backbone {type(backbone).__name__} cannot branch, since what the axes of "
                "its output are cannot be known; say it in backbone.layouts"
            )
        # What is known now need not be found out from branches.
        backbone.known_layouts[name] = layout
    for index in range(first, len(backbone.stages)):
        divides = None if index == first else channel_axis(layouts[index - 1])
        backbone.stages[index] = Branched(backbone.stages[index], channel_axis(layouts[index]), divides)


def last_resolution(backbone: Backbone) -> int:
    """Index of the first stage that works at the resolution of the last feature maps, which are the most specialised.

    It is the last stage whose map has other sides than the map before, as the last group of a ResNet begins with. Where
    there is none behind the first stage (a ViT), it is the last stage with weights.
    """
    layouts, shapes = backbone.layouts(), backbone.shapes()
    weighty = [any(p.ndim > 1 for p in stage.parameters()) for stage in backbone.stages]
    last = max((index for index, weighs in enumerate(weighty) if weighs), default=len(weighty) - 1)
    sides = [
        read_shape(shape, layout)[1:] if layout is not None and AXES[layout] == 3 else None
        for shape, layout in zip(shapes, layouts, strict=True)
    ]
    shrinks = [None not in pair and pair[0] != pair[1] for pair in pairwise(sides[: last + 1])]
    return max((index for index, shrunk in enumerate(shrinks, start=1) if shrunk), default=last)


def channel_axis(layout: Layout | None) -> int:
    """The axis of the channels in a batch of outputs of that layout."""
    return 1 if layout == "channels_first" else -1


def branch(network: ExitNetwork, seed: int) -> None:
    """Adds a branch to the stages that can, and columns to the heads; for `Approach.expand`.

    Args:
        seed: the run's.
    """
    for stage in network.backbone.stages:
        if isinstance(stage, Branched):
            stage.branch()
    network.widen(seed)


def branches_at(network: ExitNetwork) -> list[int]:
    """How many branches each exit reads [E]."""
    ends = (network.backbone.stages[end - 1] for _, end in network.bounds)
    return [len(stage) if isinstance(stage, Branched) else 1 for stage in ends]


def shared_stages(network: ExitNetwork) -> list[nn.Module]:
    """The stages that do not branch."""
    return [stage for stage in network.backbone.stages if not isinstance(stage, Branched)]


def newest_widths(network: ExitNetwork) -> list[int]:
    """How many features the newest branch gives to each exit [E]."""
    counts = branches_at(network)
    return [head.classifier.in_features // count for head, count in zip(network.heads, counts, strict=True)]


def newest_features(network: ExitNetwork, features: Sequence[Tensor]) -> list[Tensor]:
    """Of the features of each exit, E tensors [B, D_i], those that the newest branch gives."""
    return [value.chunk(count, 1)[-1] for value, count in zip(features, branches_at(network), strict=True)]
