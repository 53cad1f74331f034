"""Maps that heads read: the maximum and the average of a feature map's windows.

Shapes: B batch, D features.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.data.layouts import Layout, read, read_shape


class Pooling(nn.Module):
    """Max-pools and average-pools a feature map; a 1 × 1 map stays.

    Args:
        shape: of the feature map.
        factor: by which each side shrinks, rounded up.
        layout: where in the shape the channels stand, `channels_first` or `channels_last`; or `patch_map` of tokens.
    """

    def __init__(self, shape: Sequence[int], factor: int = 2, layout: Layout = "channels_first"):
        super().__init__()
        _, height, width = read_shape(shape, layout)
        self.factor, self.layout = factor, layout
        self.size = (-(-height // factor), -(-width // factor))
        self.keeps = self.size == (height, width)
        self.divides = height % factor == 0 and width % factor == 0

    def out_features(self, shape: Sequence[int]) -> int:
        """D of a map of `shape`."""
        return read_shape(shape, self.layout)[0] * math.prod(self.size)

    def maps(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum and the average map [B, channels, height, width]."""
        hidden = read(hidden, self.layout)
        if self.keeps:
            return hidden, hidden
        if self.divides:
            if torch.is_grad_enabled() and hidden.requires_grad:
                maximum, average, _ = MaximumAndAverage.apply(hidden, self.factor)
                return maximum, average
            return F.max_pool2d(hidden, self.factor), F.avg_pool2d(hidden, self.factor)
        return F.adaptive_max_pool2d(hidden, self.size), F.adaptive_avg_pool2d(hidden, self.size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Both maps as vectors [2, B, D]."""
        return torch.stack([part.flatten(1) for part in self.maps(hidden)])


class MaximumAndAverage(torch.autograd.Function):
    """Max- and average-pools square windows that tile a map, with one gradient for both.

    Two pooling layers would each write a gradient as large as the map, a window at a time, and the two would be added.
    Here the average's is spread over the windows and the maximum's added where the maximum, the first of equal ones,
    was found: a third of the time on a CPU.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, factor: int) -> tuple[Tensor, Tensor, Tensor]:
        maximum, places = F.max_pool2d(hidden, factor, return_indices=True)
        return maximum, F.avg_pool2d(hidden, factor), places

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.factor = inputs[1]
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(output[2])

    @staticmethod
    def backward(ctx: Any, maximum: Tensor, average: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (places,), factor = ctx.saved_tensors, ctx.factor
        batch, channels, rows, columns = average.shape
        average, maximum, places = (part.permute(0, 2, 3, 1) for part in (average / factor**2, maximum, places))
        windows = average[:, :, None, :, None].expand(-1, -1, factor, -1, factor, -1)
        pixels = windows.reshape(batch, -1, channels)
        pixels = pixels.scatter_add(1, places.flatten(1, 2), maximum.flatten(1, 2))
        return pixels.unflatten(1, (rows * factor, columns * factor)).permute(0, 3, 1, 2), None
