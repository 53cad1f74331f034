"""A small convolutional network for tiny images such as 8 × 8 digits."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from cl_ac.network import Backbone, Exits


class SmallConvNet(Backbone):
    """Four convolutions with batch norm, the middle one halves the map; then average pooling.

    The stages are `block0` … `block3` and `pool`.

    Args:
        image_shape: channels, height and width.
        width: channels of the first two convolutions; the last two have twice as many.
    """

    presets: ClassVar[Mapping[str, Exits]] = {
        "sdn": Exits(["block0", "block1", "block2"], [0.3, 0.5, 0.8]),
        "sparse": Exits(["block1"], [0.5]),
    }

    def __init__(self, image_shape: tuple[int, int, int], width: int = 32, **learning):
        stages: dict[str, nn.Module] = {}
        in_channels = image_shape[0]
        for index, (channels, stride) in enumerate([(width, 1), (width, 1), (2 * width, 2), (2 * width, 1)]):
            stages[f"block{index}"] = nn.Sequential(
                nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            in_channels = channels
        stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(image_shape, stages, **learning)
