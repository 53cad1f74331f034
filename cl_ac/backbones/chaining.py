"""Cutting a model into stages by watching it run, for models whose code cannot be traced.

Shapes: B batch, T tokens, D features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from cl_ac.backbones.calls import Call, Given, first_tensor, same, steady, watched
from cl_ac.backbones.cutting import LAST_STAGE, usual_stages
from cl_ac.data.layouts import Layout
from cl_ac.errors import ConfigurationError, told, unknown

# How models make one vector of what their last block gives: tokens [B, T, D] of which some come before those of the
# image, or a map.
READINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "first token": lambda hidden, before: hidden[:, 0],
    "mean of tokens": lambda hidden, before: hidden[:, before:].mean(1),
    "first token and mean": lambda hidden, before: torch.cat([hidden[:, 0], hidden[:, before:].mean(1)], 1),
    "mean of a map": lambda hidden, before: hidden.mean((2, 3)),
}
AXES = {name: 4 if "map" in name else 3 for name in READINGS}
# A class token and registers.
MOST_BEFORE = 17
# What models call the parameter.
CLASS_TOKENS = {"cls_token", "class_token", "class_embedding"}


class NoChain(ConfigurationError):
    """A model whose modules do not run one after the other."""


class Step(nn.Module):
    """A module with the arguments that it takes beside the tensor that runs through.

    Args:
        call: how the module was called.
    """

    def __init__(self, call: Call):
        super().__init__()
        self.module, self.place = call.module, call.place
        self.arguments, self.options = _without_tensor(call)

    def forward(self, hidden: Tensor) -> Tensor:
        arguments, options = list(self.arguments), dict(self.options)
        if isinstance(self.place, int):
            arguments[self.place] = hidden
        else:
            options[self.place] = hidden
        return first_tensor(self.module(*_on(arguments, hidden), **_on(options, hidden)))


class Reading(nn.Module):
    """What makes a vector [B, D] of the last tokens or map.

    Args:
        kind: one of `READINGS`.
        before: how many tokens come before those of the image.
    """

    def __init__(self, kind: str, before: int = 0):
        super().__init__()
        self.kind, self.before = kind, before

    def forward(self, hidden: Tensor) -> Tensor:
        return READINGS[self.kind](hidden, self.before)


@dataclass
class Chain:
    """Modules that run one after the other, and where each module of the model ends among them."""

    steps: list[nn.Module] = field(default_factory=list)
    points: dict[str, int] = field(default_factory=dict)


def chained(
    model: nn.Module, image_shape: Sequence[int], stages: Sequence[str] | None, **options: Any
) -> dict[str, nn.Module]:
    """Cuts a classification model into stages that are called one after the other, as `cutting.cut` does.

    The model runs on random images while its modules are watched. A module whose parts hand one tensor from each to
    the next is taken apart into them; others, such as blocks with a shortcut, stay whole. What else a module is given
    must be the same for all images. Between the last block and the linear layer at the end one of `READINGS` may stand.
    The stages then give what that layer read, which is checked on other images. What a model's code does between its
    modules in training only, such as leaving out layers, is not done.

    Args:
        model: shares its layers with the stages.
        image_shape: channels, height and width.
        stages: submodules at whose end a stage ends, shallow to deep; None for those of `usual_stages`.
        options: further arguments of the model.
    Raises:
        NoChain: if the model is no such chain.
        ConfigurationError: if it does not end in a linear layer, or has no such stages.
    """
    name, was_training = type(model).__name__, model.training
    stream = torch.Generator().manual_seed(0)
    inputs = [torch.randn(count, *image_shape, generator=stream) for count in (2, 3)]
    try:
        calls, twins = (watched(model.eval(), images, options) for images in inputs)
    # A model runs code of its own, which may raise anything.
    except Exception as error:
        raise ConfigurationError(
            f"the model {name} cannot read images of {tuple(image_shape)}: {told(error)}"
        ) from error
    model.train(was_training)
    chain, target = _chain(name, calls, twins)
    points = {path: end for path, end in chain.points.items() if end + 1 < len(chain.steps)}
    stages = usual_stages(model, points) if stages is None else stages
    for stage in stages:
        if stage not in points:
            raise ConfigurationError(unknown(f"stage to cut the model {name} at", stage, points))
    ends = [points[stage] + 1 for stage in stages]
    if sorted(set(ends)) != ends:
        raise ConfigurationError(f"stages is {list(stages)}; name each end once, from shallow to deep")
    parts = [nn.Sequential(*chain.steps[start:end]) for start, end in pairwise([0, *ends, len(chain.steps)])]
    with torch.no_grad():
        found = nn.Sequential(*parts).eval()(inputs[1])
    nn.Sequential(*parts).train(was_training)
    if not torch.allclose(found, target, rtol=1e-4, atol=1e-5):
        raise NoChain(_refusal(name, "its modules alone give something else"))
    return dict(zip([*stages, LAST_STAGE], parts, strict=True))


def token_layout(model: nn.Module) -> Layout:
    """Which of a model's tokens speak for the image: the class token if it has one, else all."""
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    return "class_token" if names & CLASS_TOKENS else "tokens"


def _chain(name: str, calls: Sequence[Call], twins: Sequence[Call]) -> tuple[Chain, Tensor]:
    """The modules from the images to what the last linear layer reads, and what it reads of the twins' images."""
    whole = calls[0]
    if [call.path for call in calls] != [call.path for call in twins]:
        raise NoChain(_refusal(name, "it runs other modules for other images"))
    twin_of = dict(zip(calls, twins, strict=True))
    last = _end(name, calls)
    chain, current, position = Chain(), whole.read, whole.began
    while not same(current, last.read):
        following, reading = _next(calls, "", current, position), None
        # Dropout hands on what it reads here, and must not be left out.
        hands_on = following is not None and same(following.gave, current)
        if following is None or (not hands_on and _reading(current[0], last) is not None):
            following, reading = _read_next(calls, current[0], position, last)
        if following is None:
            after = max(chain.points, key=chain.points.__getitem__, default="its beginning")
            raise NoChain(_refusal(name, f"after '{after}' no module goes on with what it gave"))
        if reading is not None:
            chain.steps.append(reading)
        if following is last:
            break
        final = _append(chain, following, calls, twin_of, name)
        current, position = cast(Given, final.gave), final.ended
    return chain, twin_of[last].read[0]


def _end(name: str, calls: Sequence[Call]) -> Call:
    """The last linear layer, or what stands in its place where the model has no classes."""
    last = next((each for each in reversed(calls[1:]) if same(each.gave, calls[0].gave)), None)
    if last is None or not isinstance(last.module, nn.Linear | nn.Identity):
        raise ConfigurationError(f"the model {name} does not end in a linear layer; choose a classification model")
    return last


def _next(calls: Sequence[Call], inside: str, current: tuple[Tensor, int], position: int) -> Call | None:
    """The first and outermost module inside another one that reads a tensor as it is."""
    prefix = f"{inside}." if inside else ""
    return next(
        (
            call
            for call in calls
            if call.began > position and call.path.startswith(prefix) and call.path and same(call.read, current)
        ),
        None,
    )


def _read_next(calls: Sequence[Call], hidden: Tensor, position: int, last: Call) -> tuple[Call | None, Reading | None]:
    """The module that reads what one of `READINGS` makes of `hidden`, and which one: `last`, or the first one."""
    for call in (last, *(each for each in calls if position < each.began < last.began)):
        if (reading := _reading(hidden, call)) is not None:
            return call, reading
    return None, None


def _reading(hidden: Tensor, call: Call) -> Reading | None:
    """What makes of `hidden` what a module read; None if nothing does."""
    kinds = [kind for kind, axes in AXES.items() if axes == hidden.ndim]
    for before in range(min(MOST_BEFORE, hidden.shape[1] - 1) + 1):
        for reading in (Reading(kind, before) for kind in kinds):
            vector, read = reading(hidden), call.read[0]
            if vector.shape == read.shape and torch.allclose(vector, read, rtol=1e-4, atol=1e-6):
                return reading
    return None


def _append(chain: Chain, call: Call, calls: Sequence[Call], twin_of: Mapping[Call, Call], name: str) -> Call:
    """Adds a module to the chain, taken apart as far as its parts are a chain; returns the last part."""
    parts, final = _parts(call, calls, twin_of), call
    if parts is None:
        if call.gave is None or not steady(call, twin_of[call]):
            raise NoChain(_refusal(name, f"'{call.path}' reads more of an image than what the module before gave"))
        plain = not call.others and call.place == 0 and call.plain
        chain.steps.append(call.module if plain else Step(call))
    for part in parts or ():
        final = _append(chain, part, calls, twin_of, name)
    chain.points[call.path] = len(chain.steps) - 1
    return final


def _parts(call: Call, calls: Sequence[Call], twin_of: Mapping[Call, Call]) -> list[Call] | None:
    """The modules inside a module that hand one tensor from its input to its output; None if it is no such chain."""
    found: list[Call] = []
    current, position, complete = call.read, call.began, 0
    while (following := _next(calls, call.path, current, position)) is not None and following.began < call.ended:
        if following.gave is None or not (steady(following, twin_of[following]) or _parts(following, calls, twin_of)):
            return None
        found.append(following)
        current, position = following.gave, following.ended
        if same(current, call.gave):
            # What follows may still hand on the same tensor, as dropout does here.
            complete = len(found)
    return found[:complete] or None


def _without_tensor(call: Call) -> tuple[list[Any], dict[str, Any]]:
    arguments = [None if index == call.place else value for index, value in enumerate(call.arguments)]
    return arguments, {name: None if name == call.place else value for name, value in call.options.items()}


def _on(values: Any, hidden: Tensor) -> Any:
    """`values` with their tensors on the device of `hidden`."""
    if isinstance(values, Tensor):
        return values.to(hidden.device)
    if isinstance(values, dict):
        return {name: _on(value, hidden) for name, value in values.items()}
    return type(values)(_on(value, hidden) for value in values) if isinstance(values, tuple | list) else values


def _refusal(name: str, reason: str) -> str:
    return f"the model {name} cannot be cut into stages ({reason}); write a Backbone with its stages"
