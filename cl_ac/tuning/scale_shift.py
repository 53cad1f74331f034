"""Scale and shift: the outputs of frozen layers get factors and summands that learn (Lian et al., 2022, SSF)."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.tuning.weights import weights


class Switched(nn.Module):
    """A change of a weight that can be switched off (`at_work`), which a state knows."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work = True

    def tuned(self, value: Tensor) -> Tensor:
        """The weight with the change."""
        raise NotImplementedError

    def forward(self, value: Tensor) -> Tensor:
        return self.tuned(value) if self.at_work else value

    def get_extra_state(self) -> bool:
        return self.at_work

    def set_extra_state(self, state: bool) -> None:
        self.at_work = state


class Scale(Switched):
    """Multiplies the weights of each output by a factor, 1 at first.

    Args:
        outputs: how many there are.
        axis: where they stand in the weight.
    """

    def __init__(self, outputs: int, axis: int = 0):
        super().__init__()
        self.axis = axis
        self.scale = nn.Parameter(torch.ones(outputs))

    def tuned(self, value: Tensor) -> Tensor:
        return value * self.scale.view(-1, *[1] * (value.ndim - 1 if self.axis == 0 else 0))


class ScaleShift(Switched):
    """Multiplies biases by the factors of the weights to which they belong, and adds a summand, 0 at first.

    Args:
        scale: of the weights; its factors are shared.
    """

    def __init__(self, scale: Scale):
        super().__init__()
        self.scale, self.shift = scale.scale, nn.Parameter(torch.zeros_like(scale.scale))

    def tuned(self, value: Tensor) -> Tensor:
        return value * self.scale + self.shift


def add_scale_shift(backbone: Backbone) -> None:
    """Lets every linear layer, convolution, norm and packed attention learn `γ y + β` of its outputs y.

    Nothing changes until they learn. They act on weight and bias, which is the same and can be merged exactly; what has
    no bias is scaled only: the norm that follows it has one.

    Raises:
        ConfigurationError: if there are none of these layers.
    """
    places = weights(backbone)
    if not places:
        raise ConfigurationError(f"the backbone {type(backbone).__name__} has no layers to scale and shift")
    for place in places:
        tensor = place.tensor
        # The weight of a norm over several axes has one factor for each value.
        outputs = tensor.shape[place.axis]
        scale = Scale(outputs, place.axis).to(tensor.device, tensor.dtype)
        parametrize.register_parametrization(place.module, place.weight, scale)
        if place.bias is not None:
            parametrize.register_parametrization(place.module, place.bias, ScaleShift(scale))
