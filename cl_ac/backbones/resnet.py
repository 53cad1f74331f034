"""ResNet-32 for 32 × 32 images (He et al., 2016, section 4.2), as continual-learning papers use it."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.network import Backbone, Exits


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with batch norm and a shortcut, a 1 × 1 convolution where the shape changes.

    Args:
        last_relu: whether the sum is rectified.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, last_relu: bool = True):
        super().__init__()
        self.last_relu = last_relu
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(hidden)), inplace=True)))
        output = residual + self.shortcut(hidden)
        return F.relu(output, inplace=True) if self.last_relu else output


class ResNet32(Backbone):
    """Three groups of five basic blocks with 16, 32 and 64 channels, then global average pooling to 64 features.

    The stages are `stem`, `layer1.0` … `layer3.4` and `pool`. The presets are the placements of the AC paper.

    Args:
        image_shape: channels, height and width.
        width: channels of the first group.
        last_relu: whether the features are rectified; cosine classifiers (LUCIR, PODNet) work better without.
    """

    presets: ClassVar[Mapping[str, Exits]] = {
        "sdn": Exits(
            ["layer1.2", "layer1.4", "layer2.1", "layer2.3", "layer3.0", "layer3.2"],
            [0.15, 0.3, 0.45, 0.6, 0.75, 0.9],
        ),
        "sparse": Exits(["layer1.2", "layer2.1", "layer3.0"], [0.15, 0.45, 0.75]),
        "dense": Exits(
            [
                *(f"layer1.{i}" for i in (2, 3, 4)),
                *(f"layer2.{i}" for i in range(5)),
                *(f"layer3.{i}" for i in range(4)),
            ],
            [0.15, 0.225, 0.3, 0.375, 0.45, 0.525, 0.6, 0.675, 0.75, 0.825, 0.9, 0.95],
        ),
    }

    def __init__(self, image_shape: tuple[int, int, int], width: int = 16, last_relu: bool = True, **learning):
        stages: dict[str, nn.Module] = {
            "stem": nn.Sequential(
                nn.Conv2d(image_shape[0], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            )
        }
        channels = width
        for group in (1, 2, 3):
            for block in range(5):
                out_channels = width * 2 ** (group - 1)
                stride = 2 if group > 1 and block == 0 else 1
                rectified = last_relu or (group, block) != (3, 4)
                stages[f"layer{group}.{block}"] = BasicBlock(channels, out_channels, stride, rectified)
                channels = out_channels
        stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(image_shape, stages, **learning)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
