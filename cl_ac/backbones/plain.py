"""Plain chains of linear layers, as deep as one likes: what they can learn at all depends on their initial weights."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone, Exits

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "linear": nn.Identity}


class PlainMLP(Backbone):
    """Linear layers with an activation each, without batch norm or shortcuts.

    Weights are normal with variance 1 / mean of inputs and outputs (Glorot & Bengio, 2010), biases zero. The stages are
    `flat` and `layer0`, `layer1`, … The preset `sdn` hangs ACs at a quarter, a half and three quarters of the depth.

    Args:
        image_shape: channels, height and width.
        depth: layers.
        width: outputs of each.
        activation: `tanh`, `relu` or `linear`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        depth: int = 8,
        width: int = 64,
        activation: Literal["tanh", "relu", "linear"] = "tanh",
        **learning,
    ):
        if depth < 1 or width < 1:
            raise ConfigurationError(f"the backbone PlainMLP has depth {depth} and width {width}; both must be above 0")
        channels, height, image_width = image_shape
        stages: dict[str, nn.Module] = {"flat": nn.Flatten()}
        inputs = channels * height * image_width
        for index in range(depth):
            linear = nn.Linear(inputs, width)
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            stages[f"layer{index}"] = nn.Sequential(linear, ACTIVATIONS[activation]())
            inputs = width
        super().__init__(image_shape, stages, **learning)

    @property
    def presets(self) -> Mapping[str, Exits]:  # type: ignore[override]
        """AC placements by name; they depend on the depth."""
        depth = len(self.stages) - 1
        places = sorted({max(depth * quarter // 4, 1) for quarter in (1, 2, 3)} - {depth})
        return {"sdn": Exits([f"layer{place - 1}" for place in places], [place / depth for place in places])}
