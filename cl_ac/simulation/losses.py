"""What an expert loses with each sample (ExpertSim, after SDI-GAN): pure functions, one value per sample.

Legend: N samples, Z noise, F features, H × W cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-5


def real_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of a discriminator's logits [N] for samples that it should take for real: [N]."""
    return F.softplus(-logits)


def fake_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of a discriminator's logits [N] for samples that it should take for made: [N]."""
    return F.softplus(logits)


def diversity(features: Tensor, noise: Tensor, spread: Tensor, strength: float = 0.1) -> Tensor:
    """Selective diversity: where real samples differ at a condition, other noise must make another image.

    With r, the distance of a discriminator's features over that of the noise, both mean absolute differences:
    `mean(spread) · spread · strength / r`.

    Args:
        features: of the images made with two draws of noise, [2, N, F].
        noise: the draws, [2, N, Z].
        spread: of real samples at each condition, in [0, 1]: [N].
        strength: the paper's factor of `1 / r`.

    Returns:
        [N].
    """
    moved = (noise[0] - noise[1]).abs().mean(-1)
    changed = (features[0] - features[1]).abs().mean(-1)
    return spread.mean() * spread * strength / (changed / (moved + TINY) + TINY)


def intensity(made: Tensor, photons: Tensor) -> Tensor:
    """How many photons an image has too many or too few: [N].

    Args:
        made: images of log(1 + photons), [N, H, W].
        photons: of the real images, [N].
    """
    return (made.expm1().sum((1, 2)) - photons).abs()


def position(predicted: Tensor, true: Tensor) -> Tensor:
    """Squared distance of two places [N, 2] in cells, mean over rows and columns: [N]."""
    return (predicted - true).square().mean(-1)


def brightest(images: Tensor) -> Tensor:
    """Row and column of the brightest cell of each image, the first of equals: [N, H, W] to float [N, 2]."""
    place = images.flatten(1).argmax(-1)
    width = images.shape[-1]
    return torch.stack([place // width, place % width], -1).to(images.dtype)
