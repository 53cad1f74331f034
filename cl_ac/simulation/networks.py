"""The networks of a mixture of generative adversarial experts.

Legend: N samples, Z noise, C values of a condition, F features, H × W cells. Images hold log(1 + photons).
"""

import torch
from torch import Tensor, nn

SLOPE = 0.1


class Generator(nn.Module):
    """Makes an image from noise [N, Z] and conditions [N, C]: [N, H, W].

    Args:
        noise: Z.
        conditions: C.
        shape: H and W.
        hidden: widths of the two hidden layers.
    """

    def __init__(self, noise: int, conditions: int, shape: tuple[int, int], hidden: tuple[int, int]):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(noise + conditions, hidden[0]),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden[0], hidden[1]),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden[1], shape[0] * shape[1]),
            nn.ReLU(),
            nn.Unflatten(1, shape),
        )

    def forward(self, noise: Tensor, conditions: Tensor) -> Tensor:
        return self.layers(torch.cat([noise, conditions], -1))


class Discriminator(nn.Module):
    """Tells real images [N, H, W] at conditions [N, C] from made ones: features [N, F] and logits [N].

    Args:
        conditions: C.
        shape: H and W.
        hidden: width of the hidden layer.
        features: F.
    """

    def __init__(self, conditions: int, shape: tuple[int, int], hidden: int, features: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(shape[0] * shape[1] + conditions, hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden, features),
            nn.LeakyReLU(SLOPE),
        )
        self.answer = nn.Linear(features, 1)

    def forward(self, images: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(torch.cat([images.flatten(1), conditions], -1))
        return features, self.answer(features)[:, 0]


class PositionRegressor(nn.Module):
    """The auxiliary regressor: features [N, F] of images [N, H, W], and where the brightest cell is, [N, 2].

    Args:
        shape: H and W.
        hidden: width of the hidden layer.
        features: F, none below 0.
    """

    def __init__(self, shape: tuple[int, int], hidden: int, features: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(shape[0] * shape[1], hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden, features),
            nn.ReLU(),
        )
        self.answer = nn.Linear(features, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(images)
        return features, self.answer(features)
