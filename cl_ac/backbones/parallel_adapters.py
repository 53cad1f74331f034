"""1 × 1 convolutions beside the larger ones of a backbone, which learn in their place and are folded into them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone


class ParallelAdapter(nn.Module):
    """Adds a 1 × 1 kernel to the centre of a convolution's: the same as a second convolution beside it.

    Args:
        kernel: of the convolution, [out, in, height, width], with odd sides.
    """

    def __init__(self, kernel: Tensor):
        super().__init__()
        self.adapter = nn.Parameter(torch.zeros_like(kernel[:, :, :1, :1]))
        height, width = kernel.shape[2:]
        self.padding = (width // 2, width // 2, height // 2, height // 2)

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel + F.pad(self.adapter, self.padding)


def add_parallel_adapters(backbone: Backbone) -> None:
    """Puts an adapter, zero at first, beside all convolutions but the first that are larger than 1 × 1 and not frozen.

    Raises:
        ConfigurationError: if there is none.
    """
    convolutions = [
        module
        for module in backbone.modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and all(s % 2 for s in module.kernel_size)
    ]
    learning = [module for module in convolutions[1:] if module.weight.requires_grad]
    if not learning:
        raise ConfigurationError(
            f"the backbone {type(backbone).__name__} has no convolutions behind the first that adapters could stand "
            "beside; choose a convolutional one that is not wholly frozen"
        )
    for convolution in learning:
        parametrize.register_parametrization(convolution, "weight", ParallelAdapter(convolution.weight))


def adapters(backbone: Backbone) -> list[nn.Parameter]:
    """The kernels of all adapters."""
    return [module.adapter for module in backbone.modules() if isinstance(module, ParallelAdapter)]


@torch.no_grad()
def fold_adapters(backbone: Backbone) -> None:
    """Adds the adapters to the kernels beside which they stand, and begins them anew at zero."""
    for module in backbone.modules():
        if parametrize.is_parametrized(module, "weight"):
            kernel = module.parametrizations.weight
            for adapter in (each for each in kernel if isinstance(each, ParallelAdapter)):
                kernel.original.copy_(adapter(kernel.original))
                adapter.adapter.zero_()
