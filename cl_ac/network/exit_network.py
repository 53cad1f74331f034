"""A staged backbone with one classifier per exit, growing with the classes.

Shapes: E exits, B batch, C classes seen so far, D features.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Self, cast

import torch
from torch import Tensor, nn

from cl_ac.data.copying import copied
from cl_ac.data.layouts import AXES, Layout, condensed, read, read_shape
from cl_ac.data.recognised import Recognised
from cl_ac.data.seeding import generator
from cl_ac.errors import ConfigurationError
from cl_ac.heads import Cascade, GrowingClassifier, GrowingLinear, Head, build_head
from cl_ac.network.backbone import Backbone
from cl_ac.network.exits import NO_EXITS, Exits
from cl_ac.processes.passes import Read, shared


class ExitNetwork(nn.Module):
    """A backbone whose exits all answer: `network(images)` gives logits [E, B, C], the final classifier last.

    Args:
        backbone: the staged feature extractor.
        exits: where ACs hang; none by default, then E is 1.
        classifier: builds the classifier of one exit for D features.

    `batch_norm_frozen` keeps batch norm in evaluation mode whatever mode the network is put in.

    Raises:
        ConfigurationError: if an AC is placed at a stage that does not exist, or not in order.
    """

    def __init__(
        self,
        backbone: Backbone,
        exits: Exits = NO_EXITS,
        classifier: Callable[[int], GrowingClassifier] = GrowingLinear,
    ):
        super().__init__()
        names, at = backbone.stage_names, exits.stages(backbone.stage_names)
        self.backbone, self.exits = backbone, replace(exits, at=list[str | int](at))
        self.batch_norm_frozen = False
        positions = [names.index(name) + 1 for name in at]
        self.bounds = list(pairwise([0, *positions, len(names)]))
        self.measure()
        for name, position in zip(at, positions, strict=True):
            self._need_layout(position - 1, f"an AC at '{name}'")
            exits.check_tokens(name, self.stage_shapes[position - 1], self.stage_layouts[position - 1])
        if at and backbone.class_token_only and exits.tokens not in ("auto", "class"):
            raise ConfigurationError(
                f"exits.tokens is '{exits.tokens}', but the approach puts tokens of its own beside those of the image; "
                "take 'class'"
            )
        heads = [
            build_head(
                shape,
                exits.pool,
                classifier,
                Cascade() if exits.cascade and index else None,
                exits.layout(self.stage_layouts[self.bounds[index][1] - 1]),
            )
            for index, shape in enumerate(self.shapes[:-1])
        ]
        self.heads = nn.ModuleList([*heads, Head(classifier(math.prod(self.shapes[-1])))])
        self.sizes: list[int] = []
        # A state may hold a backbone that has branched since it was built.
        self.register_load_state_dict_post_hook(_measured)

    def measure(self) -> None:
        """Finds the shapes and layouts of the stages' outputs, as the backbone now is."""
        self.stage_shapes, self.stage_layouts = self.backbone.shapes(), self.backbone.layouts()
        self.shapes = [self.stage_shapes[end - 1] for _, end in self.bounds]

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def device(self) -> torch.device:
        """Where the heads, and with them the network, are."""
        return next(self.heads.parameters()).device

    @property
    def num_classes(self) -> int:
        """C."""
        return sum(self.sizes)

    def _need_layout(self, stage: int, use: str) -> None:
        if self.stage_layouts[stage] is None:
            backbone, shape = self.backbone, self.stage_shapes[stage]
            allowed = [layout for layout, axes in AXES.items() if axes == len(shape)]
            way_out = f"say which in backbone.layouts: {', '.join(allowed)}" if allowed else "choose another stage"
            raise ConfigurationError(
                f"{use} would read an output of shape {shape} of the stage '{backbone.stage_names[stage]}' of "
                f"{type(backbone).__name__}, and what its axes are cannot be known; {way_out}"
            )

    def grow(self, num_classes: int, seed: int) -> None:
        """Gives every exit rows for `num_classes` new classes; each exit draws from its own stream."""
        for depth, head in enumerate(reversed(self.heads)):
            head.grow(num_classes, generator(seed, "head", len(self.sizes), depth))
        self.sizes.append(num_classes)

    def widen(self, seed: int) -> None:
        """Lets every head read what its stage gives now, after the backbone has branched or become wider."""
        self.measure()
        for depth, (head, shape) in enumerate(zip(reversed(self.heads), reversed(self.shapes), strict=True)):
            head.widen(shape, generator(seed, "columns", len(self.sizes), depth))

    def reset_heads(self, seed: int) -> None:
        """Draws the classifier of every exit anew, from its own stream."""
        for depth, head in enumerate(reversed(self.heads)):
            head.reset(generator(seed, "reset head", len(self.sizes), depth))

    def train_old_rows(self, trained: bool) -> None:
        """Lets the classifier rows of earlier tasks learn, or freezes them."""
        for head in self.heads:
            for rows in head.old_rows:
                rows.requires_grad_(trained)

    @property
    def new_rows(self) -> list[nn.Parameter]:
        """What belongs to the classes of the newest task, of every exit."""
        return [rows for head in self.heads for rows in head.new_rows]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.batch_norm_frozen:
            for layer in batch_norms(self):
                layer.training = False
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As of any module, but what does not learn in frozen stages never will."""
        frozen = self.backbone.stages[: self.backbone.frozen_stages].parameters()
        fixed = [parameter for parameter in frozen if not parameter.requires_grad]
        super().requires_grad_(requires_grad)
        for parameter in fixed:
            parameter.requires_grad_(False)
        return self

    def segment(self, index: int, hidden: Tensor) -> Tensor:
        """Runs the stages between exit `index - 1` and exit `index`."""
        for stage in self.backbone.stages[slice(*self.bounds[index])]:
            hidden = stage(hidden)
        return hidden

    def stage_outputs(self, images: Tensor) -> list[Tensor]:
        """What every stage of the backbone gives."""
        outputs = []
        for stage in self.backbone.stages:
            images = stage(images)
            outputs.append(images)
        return outputs

    def at_exits(self, stage_outputs: Sequence[Tensor]) -> list[Tensor]:
        """What each exit's head reads, of what `stage_outputs` gave: E tensors."""
        outputs = (stage_outputs[end - 1] for _, end in self.bounds)
        layouts = (cast(Layout, head.layout) for head in self.heads)
        *auxiliary, last = (condensed(value, layout) for value, layout in zip(outputs, layouts, strict=True))
        return [*(value.detach() if self.exits.detach else value for value in auxiliary), last]

    def maps_below(self, stage_outputs: Sequence[Tensor]) -> list[list[Tensor]]:
        """For each exit, the feature maps [B, channels, height, width] that lead to it: E lists.

        They are the last map of each resolution below the exit and the map that it reads, as PODNet distils them.
        """
        for stage in range(len(self.stage_shapes)):
            self._need_layout(stage, "the distillation of feature maps")
        outputs, layouts = self.at_exits(stage_outputs), cast(list[Layout], self.stage_layouts)
        shapes = [read_shape(shape, layout) for shape, layout in zip(self.stage_shapes, layouts, strict=True)]
        lists = []
        for exit_output, (_, end) in zip(outputs, self.bounds, strict=True):
            detached = self.exits.detach and end < len(shapes)
            lasts = [index for index in range(end - 1) if shapes[index][1:] != shapes[index + 1][1:]]
            below = [stage_outputs[index].detach() if detached else stage_outputs[index] for index in lasts]
            read_there = [layouts[index] for index in [*lasts, end - 1]]
            maps = [read(value, layout) for value, layout in zip([*below, exit_output], read_there, strict=True)]
            lists.append([value for value in maps if value.ndim == 4])
        return lists

    def hidden(self, images: Tensor) -> list[Tensor]:
        """What each exit's head reads: E tensors.

        What frozen stages make of images that come again is computed once.
        """
        return self._shared(self._hidden, images)

    def _hidden(self, images: Tensor) -> list[Tensor]:
        known = self.known_outputs(images)
        if not known:
            return self.at_exits(self.stage_outputs(images))
        outputs: list[Tensor] = [images] * len(self.backbone.stages)
        for end, value in known.items():
            outputs[end - 1] = value
        for index in range(max(known), len(outputs)):
            outputs[index] = self.backbone.stages[index](outputs[index - 1])
        return self.at_exits(outputs)

    def known_outputs(self, images: Tensor, whole: Iterable[int] = ()) -> dict[int, Tensor]:
        """What frozen stages make of images that come again, by how many stages have run; empty if nothing is kept.

        It is what exits and further stages read.

        Args:
            whole: after how many stages it is read by others too; what frozen stages do not reach becomes all of them.
        """
        fixed = self.backbone.stages[: self.backbone.frozen_stages]
        if not (isinstance(images, Recognised) and images.unchanged and len(fixed)):
            return {}
        state = _tensors_in(fixed)
        if not self.backbone.known_by_weights or any(value.requires_grad for value in state):
            # A method has put something into them.
            return {}
        ends = [end for _, end in self.bounds]
        kept = sorted({min(end, len(fixed)) for end in [*ends, *whole]})
        layouts = {end: cast(Layout, head.layout) for end, head in zip(ends, self.heads, strict=True)}
        # What further stages read has to be whole.
        layouts |= {} if kept[-1] in ends and len(fixed) == len(self.backbone.stages) else {kept[-1]: "vector"}
        layouts |= dict.fromkeys(whole, "vector")
        what = tuple((end, layouts[end]) for end in kept)
        with torch.no_grad():
            known = images.recall(images, state, what, partial(_outputs_at, fixed, dict(what)))
        return dict(zip(kept, known, strict=True))

    def read(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """The feature vector of each exit, of what `hidden` gave: E tensors [B, D_i], see `features`."""
        return [head.features(value) for head, value in zip(self.heads, hidden, strict=True)]

    def features(self, images: Tensor) -> list[Tensor]:
        """The feature vector of each exit: E tensors [B, D_i].

        It is what the exit's classifier reads; the mean of both poolings where each task mixes them in its own way.
        """
        return self._shared(lambda part: self.read(self.hidden(part)), images)

    def reduce(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """What each exit's head makes of what `hidden` gave and what `answer` needs: E tensors [B, ...].

        Linear heads are linear in it, so that means of classes may stand for their images.
        """
        return [head.reduce(value) for head, value in zip(self.heads, hidden, strict=True)]

    def answer(self, reduced: Sequence[Tensor]) -> Tensor:
        """Logits [E, B, C] of what `reduce` gave."""
        logits: list[Tensor] = []
        for head, value in zip(self.heads, reduced, strict=True):
            logits.append(head.answer(value, logits[-1] if logits else None))
        return torch.stack(logits).float()

    def classify(self, hidden: Sequence[Tensor]) -> Tensor:
        """Logits [E, B, C] from what `hidden` gave."""
        return self.answer(self.reduce(hidden))

    def forward(self, images: Tensor) -> Tensor:
        return self._shared(lambda part: self.classify(self.hidden(part)), images)

    def frozen_state(self) -> dict[str, Tensor]:
        """What of the state belongs to frozen stages and does not learn, by its names in the whole state."""
        learning = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        starts = tuple(f"backbone.stages.{stage}." for stage in range(self.backbone.frozen_stages))
        return {
            name: value
            for name, value in self.state_dict().items()
            if isinstance(value, Tensor) and name.startswith(starts) and name not in learning
        }

    def _shared(self, read: Callable[[Tensor], Read], images: Tensor) -> Read:
        """What `read` makes of images, shared out among the processes of the run; each looks up what is known."""
        return read(images) if isinstance(images, Recognised) else shared(self, read, images)

    def frozen_copy(self) -> Self:
        """A deep copy in evaluation mode that learns nothing: a teacher."""
        return copied(self).eval().requires_grad_(False)

    def get_extra_state(self) -> list[int]:
        return list(self.sizes)

    def set_extra_state(self, state: list[int]) -> None:
        self.sizes = list(state)


def _tensors_in(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers, in an order that is always the same: by far faster than torch's own iterators."""
    found, modules = list[Tensor | None](), [module]
    while modules:
        inner = modules.pop()
        found += inner._parameters.values()
        found += inner._buffers.values()
        modules += [child for child in inner._modules.values() if child is not None]
    return [tensor for tensor in found if tensor is not None]


def _outputs_at(stages: Iterable[nn.Module], ends: Mapping[int, Layout], images: Tensor) -> list[Tensor]:
    """What leaves the first `end` stages and is read in a layout, for each of `ends`, which rise."""
    found, hidden = [], images
    for end, stage in enumerate(stages, 1):
        hidden = stage(hidden)
        if end in ends:
            found.append(condensed(hidden, ends[end]))
    return found


def _measured(network: ExitNetwork, _: object) -> None:
    network.measure()


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Every batch norm layer in `module`."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
