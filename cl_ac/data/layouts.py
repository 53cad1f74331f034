"""What the axes of a stage's output mean, and how that is found out.

Shapes: B batch, T tokens, D features.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cl_ac.data import texts
from cl_ac.errors import ConfigurationError, unknown

# A vector [D]; a map [channels, height, width] or [height, width, channels]; tokens [T, D] of which the first speaks
# for the image (class_token), or all together do (tokens), or those do that stand for a square of patches behind all
# others: their mean (patches) or the map that they make (patch_map). Tokens of a text carry which of them are real
# (`texts.joined`): the first, the mean of the real ones, or the last real one speaks for it.
Layout = Literal[
    "vector",
    "channels_first",
    "channels_last",
    "class_token",
    "tokens",
    "patches",
    "patch_map",
    "text_class",
    "text_mean",
    "text_last",
]
AXES: dict[str, int] = {
    "vector": 1,
    "channels_first": 3,
    "channels_last": 3,
    "class_token": 2,
    "tokens": 2,
    "patches": 2,
    "patch_map": 2,
    "text_class": 2,
    "text_mean": 2,
    "text_last": 2,
}
TEXT_READINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "text_class": texts.first_token,
    "text_mean": texts.mean_of_tokens,
    "text_last": texts.last_token,
}


def usual_layout(shape: Sequence[int]) -> Layout | None:
    """What an output of `shape` mostly is: a vector, tokens with a class token, or a map with channels first."""
    usual: dict[int, Layout] = {1: "vector", 2: "class_token", 3: "channels_first"}
    return usual.get(len(shape))


def check_layout(name: str, layout: str, shape: Sequence[int]) -> None:
    """Raises a `ConfigurationError` if a stage's output of `shape` cannot have the layout that was named for it."""
    if layout not in AXES:
        raise ConfigurationError(unknown(f"layout of the stage '{name}'", layout, get_args(Layout)))
    if AXES[layout] != len(shape):
        raise ConfigurationError(
            f"the layout of the stage '{name}' is '{layout}', which has {AXES[layout]} axes, but its output has the "
            f"shape {tuple(shape)}"
        )


def read(hidden: Tensor, layout: str) -> Tensor:
    """A stage's output as heads read it: a map [B, channels, height, width], tokens with the one that speaks for the
    image or text first [B, T, D], or a vector [B, D]."""
    if layout in TEXT_READINGS:
        return TEXT_READINGS[layout](hidden)[:, None]
    if layout == "channels_last":
        return hidden.permute(0, 3, 1, 2)
    if layout in ("patches", "patch_map"):
        side = math.isqrt(hidden.shape[1])
        patches = hidden[:, hidden.shape[1] - side * side :]
        return patches.mean(1, keepdim=True) if layout == "patches" else patches.mT.unflatten(2, (side, side))
    return hidden.mean(1, keepdim=True) if layout == "tokens" else hidden


def read_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape of what `read` gives for one image."""
    return tuple(read(torch.empty(1, *shape, device="meta"), layout).shape[1:])


def condensed(hidden: Tensor, layout: str | None) -> Tensor:
    """What has to be kept of a stage's output for heads that read it in that layout.

    Of a text it is a text of one token, which reads the same; anything else stays.
    """
    if layout not in TEXT_READINGS:
        return hidden
    token = read(hidden, str(layout))
    return texts.joined(token, torch.ones_like(token[:, :, 0]))


class Witnesses:
    """Modules that show which axis holds the channels of a map, seen while a backbone runs.

    Convolutions, batch norm and pooling read channels first; linear layers and layer norm read them last.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Layout, tuple[int, ...]]] = []

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Looks at all that `module` runs meanwhile."""
        handles = [part.register_forward_hook(self._see) for part in module.modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, module: nn.Module, inputs: tuple, output: object) -> None:
        for value in (*inputs, output):
            if isinstance(value, Tensor) and value.ndim in (3, 4):
                layout = _layout_read_by(module, tuple(value.shape[1:]))
                if layout:
                    self.seen.append((layout, tuple(value.shape[1:])))

    def layout(self, shape: tuple[int, ...]) -> Layout | None:
        """Where channels stand in outputs of `shape`: as modules read that shape, else one of the same sides.

        None if no module shows it, or some show one thing and some another.
        """
        same = {layout for layout, seen in self.seen if seen == shape}
        sides = {
            layout
            for layout, seen in self.seen
            if (seen[1:] == shape[1:] if layout == "channels_first" else seen[:-1] == shape[:-1])
        }
        found = same or sides
        return found.pop() if len(found) == 1 else None


def _layout_read_by(module: nn.Module, shape: tuple[int, ...]) -> Layout | None:
    pools = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
    if isinstance(module, _ConvNd | _BatchNorm | nn.GroupNorm | pools):
        return "channels_first"
    if isinstance(module, nn.Linear):
        return "channels_last"
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        # Some libraries derive a norm over the first axis from that over the last.
        first, last = (shape[axis] == module.normalized_shape[0] for axis in (0, -1))
        if type(module) is nn.LayerNorm or first != last:
            return "channels_last" if last else "channels_first"
    return None
