"""Wide residual networks for 32 × 32 images (Zagoruyko & Komodakis, 2016)."""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.network import Backbone, Exits


class PreActivationBlock(nn.Module):
    """Two 3 × 3 convolutions, each after batch norm and a rectifier; where the shape changes, the shortcut is a
    1 × 1 convolution of the rectified input."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        active = F.relu(self.norm1(hidden), inplace=True)
        residual = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        return residual + (hidden if self.shortcut is None else self.shortcut(active))


class WideResNet16(Backbone):
    """WRN-16: three groups of two blocks, then batch norm, a rectifier and global average pooling.

    The stages are `stem`, `block1.layer.0` … `block3.layer.1` and `pool`; the preset is the placement of the AC paper.

    Args:
        image_shape: channels, height and width.
        width: factor by which the groups are wider than 16, 32 and 64 channels; 2 is WRN-16-2.
    """

    presets: ClassVar[Mapping[str, Exits]] = {
        "sdn": Exits(
            ["block1.layer.0", "block1.layer.1", "block2.layer.0", "block2.layer.1", "block3.layer.0"],
            [0.15, 0.35, 0.5, 0.65, 0.8],
            pool=4,
        )
    }

    def __init__(self, image_shape: tuple[int, int, int], width: int = 2, **learning):
        stages: dict[str, nn.Module] = {"stem": nn.Conv2d(image_shape[0], 16, 3, 1, 1, bias=False)}
        channels = 16
        for group in (1, 2, 3):
            for block in (0, 1):
                out_channels = 16 * width * 2 ** (group - 1)
                stride = 2 if group > 1 and block == 0 else 1
                stages[f"block{group}.layer.{block}"] = PreActivationBlock(channels, out_channels, stride)
                channels = out_channels
        stages["pool"] = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        super().__init__(image_shape, stages, **learning)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
