"""What a calorimeter reads out, and how far apart two distributions of it are.

Legend: N and M showers, H × W cells, K channels.
"""

import torch
from torch import Tensor

CHANNELS = ("every other cell", "upper left", "upper right", "lower left", "lower right")


def channel_masks(height: int, width: int) -> Tensor:
    """Which cells each channel adds up, bool [K, H, W]: the dark fields of a checkerboard, and the others by quadrant.

    Each cell belongs to one channel.
    """
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    dark = (rows + columns) % 2 == 0
    upper, left = (rows < height / 2).expand(height, width), (columns < width / 2).expand(height, width)
    quadrants = [upper & left, upper & ~left, ~upper & left, ~upper & ~left]
    return torch.stack([dark, *(quadrant & ~dark for quadrant in quadrants)])


def channel_sums(images: Tensor) -> Tensor:
    """The photons in each channel: [N, H, W] to [N, K]."""
    masks = channel_masks(*images.shape[1:]).to(images)
    return torch.einsum("nhw,khw->nk", images, masks)


def wasserstein(first: Tensor, second: Tensor) -> Tensor:
    """The 1-Wasserstein distance of two samples in each column: the area between their distribution functions.

    Args:
        first: [N, K], at least one row.
        second: [M, K], likewise.

    Returns:
        float64 [K], in the unit of the values.
    """
    first, second = (values.double().T.contiguous().sort(-1).values for values in (first, second))
    merged = torch.cat([first, second], -1).sort(-1).values
    below = [torch.searchsorted(values, merged[:, :-1].contiguous(), right=True) for values in (first, second)]
    gaps = (below[0].double() / first.shape[-1] - below[1].double() / second.shape[-1]).abs()
    return (gaps * merged.diff(dim=-1)).sum(-1)
