"""VGG-19 with batch norm for 32 × 32 images (Simonyan & Zisserman, 2015)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, Exits

CHANNELS: list[int | str] = [
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    *[256] * 4,
    "pool",
    *[512] * 4,
    "pool",
    *[512] * 4,
    "pool",
]


class VGG19(Backbone):
    """Sixteen convolutions in five groups that each end in a pooling, and two hidden linear layers.

    The stages are named after torchvision's layers that end them: `features.2` … `features.52` for each convolution
    with its rectifier, or with its pooling where one follows, then `relu1`, `relu2` and `dropout`. The presets are the
    placements of the AC paper.

    Args:
        image_shape: channels, height and width, the last two multiples of 32.
        hidden: width of the two linear layers.
    """

    presets: ClassVar[Mapping[str, Exits]] = {
        "small": Exits(
            ["features.13", "features.26", "features.39", "features.52", "relu1", "relu2"],
            [0.14, 0.28, 0.42, 0.56, 0.7, 0.84],
        ),
        "medium": Exits(
            [*(f"features.{layer}" for layer in (6, 13, 19, 26, 32, 39, 45, 52)), "relu1", "relu2"],
            [0.09, 0.18, 0.27, 0.36, 0.45, 0.54, 0.63, 0.72, 0.81, 0.9],
        ),
        "dense": Exits(
            [
                *(f"features.{layer}" for layer in (2, 6, 9, 13, 16, 19, 22, 26, 29, 32, 35, 39, 42, 45, 48, 52)),
                "relu1",
                "relu2",
            ],
            [round(0.05 * (index + 1), 2) for index in range(18)],
        ),
    }

    def __init__(self, image_shape: tuple[int, int, int], hidden: int = 4096, **learning):
        in_channels, height, width = image_shape
        if min(height, width) < 32:
            raise ConfigurationError(
                f"the backbone VGG19 halves maps five times, but images are {height} × {width}; they must have at "
                "least 32 × 32 pixels (benchmark.augmentation.size makes them larger)"
            )
        stages: dict[str, nn.Module] = {}
        index = -1
        for channels, following in zip(CHANNELS, [*CHANNELS[1:], None], strict=True):
            if isinstance(channels, str):
                continue
            layers: list[nn.Module] = [
                nn.Conv2d(in_channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                *([nn.MaxPool2d(2)] if following == "pool" else []),
            ]
            index += len(layers)
            stages[f"features.{index}"] = nn.Sequential(*layers)
            in_channels = channels
        flat = in_channels * (height // 32) * (width // 32)
        stages["relu1"] = nn.Sequential(nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(inplace=True))
        stages["relu2"] = nn.Sequential(nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(inplace=True))
        stages["dropout"] = nn.Dropout()
        super().__init__(image_shape, stages, **learning)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
