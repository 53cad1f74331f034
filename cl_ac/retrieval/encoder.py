"""Two towers whose outputs can be compared. Shapes: B batch, D width of what is compared."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.data.augmentation import Augmentation
from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.network import Backbone
from cl_ac.network.exit_network import batch_norms

# Of what is embedded at once on a CPU, where large maps are memory that the system hands out anew for each layer.
VALUES_ON_CPU = 2**18


Windows: TypeAlias = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class PairBatch:
    """What a method's loss sees: items as they are stored, pair by pair.

    Args:
        first: items of the first side [B, ...].
        second: their partners [B, ...].
        matches: which first belong to which second items, bool [B, B]; true on the diagonal.
        domain: index of the domain being learned.
        windows: for the images of each side, how they are augmented; None for not at all.
    """

    first: Tensor
    second: Tensor
    matches: Tensor
    domain: int
    windows: Windows = (None, None)

    def __len__(self) -> int:
        return len(self.matches)


class Tower(nn.Module):
    """A backbone, and perhaps a projection, whose outputs have length 1.

    Args:
        backbone: gives one vector for each item.
        augmentation: how uint8 images become its inputs.
        width: of the projection; None for no projection.
    """

    def __init__(self, backbone: Backbone, augmentation: Augmentation, width: int | None):
        super().__init__()
        self.backbone, self.augmentation = backbone, augmentation
        self.features = math.prod(backbone.shapes()[-1])
        self.projection = nn.Identity() if width is None else nn.Linear(self.features, width, bias=False)

    def read(self, items: Tensor, windows: Tensor | None = None) -> Tensor:
        """What the backbone gives for items [B, ...]: [B, features]."""
        hidden = self.augmentation.apply(items, windows) if items.dtype == torch.uint8 else items.float()
        for stage in self.backbone.stages:
            hidden = stage(hidden)
        return hidden.flatten(1)

    def forward(self, items: Tensor, windows: Tensor | None = None) -> Tensor:
        """Vectors [B, D] of length 1 for items [B, ...]."""
        return F.normalize(self.projection(self.read(items, windows)), dim=1)


class DualEncoder(nn.Module):
    """Two towers and the temperature at which their outputs are compared.

    Args:
        backbones: of the first and of the second side.
        augmentation: how images become inputs.
        width: of the projections behind both; None for none, then both must be as wide.
        temperature: that cosines are divided by in losses.
        seed: of the projections' weights.
    Raises:
        ConfigurationError: if the towers cannot be compared, or a number is out of range.
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        augmentation: Augmentation = Augmentation(),
        width: int | None = None,
        temperature: float = 0.05,
        seed: int = 0,
    ):
        super().__init__()
        if temperature <= 0 or (width is not None and width < 1):
            raise ConfigurationError(
                f"temperature is {temperature:g} and width {width}; the first must be above 0, the other at least 1"
            )
        with global_stream(seed, "projections"):
            self.towers = nn.ModuleList(Tower(backbone, augmentation, width) for backbone in backbones)
        self.temperature = temperature
        widths = [tower.features for tower in self.towers]
        if width is None and len(set(widths)) > 1:
            raise ConfigurationError(
                f"the towers give {widths[0]} and {widths[1]} values, which cannot be compared; set width, so that "
                "projections follow, or take towers of one width"
            )

    @property
    def backbones(self) -> list[Backbone]:
        return [tower.backbone for tower in self.towers]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def projections(self) -> list[nn.Parameter]:
        """The parameters of the projections; none where both towers are compared as they are."""
        return [parameter for tower in self.towers for parameter in tower.projection.parameters()]

    def train(self, mode: bool = True) -> Self:
        """As of any module, but statistics of batch norm are those of the pretrained towers at all times: a batch of
        one domain would move them for all."""
        super().train(mode)
        for layer in batch_norms(self):
            layer.eval()
        return self

    def windows(self, first: Tensor, second: Tensor, stream: torch.Generator) -> Windows:
        """How the images among items of both sides [B, ...] are augmented, drawn at random."""
        drawn: list[Tensor | None] = []
        for tower, items in zip(self.towers, (first, second), strict=True):
            images = items.dtype == torch.uint8
            windows = tower.augmentation.draw(len(items), *items.shape[-2:], stream) if images else None
            drawn.append(None if windows is None else windows.to(items.device))
        return drawn[0], drawn[1]

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """The vectors of both sides, [B, D] each."""
        first, second = (
            tower(items, windows)
            for tower, items, windows in zip(self.towers, (batch.first, batch.second), batch.windows, strict=True)
        )
        return first, second

    def similarities(self, batch: PairBatch) -> Tensor:
        """Cosines over the temperature between the items of a batch [B, B], in float32."""
        first, second = self(batch)
        return first.float() @ second.float().T / self.temperature

    @torch.no_grad()
    def embed(self, side: int, items: Tensor) -> Tensor:
        """The vectors [N, D] of all items [N, ...] of a side, in evaluation mode, on their device."""
        return self._batched(side, items, self.towers[side])

    @torch.no_grad()
    def read(self, side: int, items: Tensor) -> Tensor:
        """What a tower's backbone gives for all items, before the projection: [N, features]."""
        return self._batched(side, items, self.towers[side].read)

    def _batched(self, side: int, items: Tensor, run) -> Tensor:
        was_training = self.training
        self.eval()
        found = [run(part.to(self.device)) for part in items.split(self.at_once(side))]
        self.train(was_training)
        return torch.cat(found)

    def at_once(self, side: int) -> int:
        """How many items of a side are embedded in one batch."""
        shape = self.backbones[side].image_shape
        return 256 if self.device.type != "cpu" else min(256, max(8, VALUES_ON_CPU // math.prod(shape[-2:])))


def frozen(parameters: Iterable[nn.Parameter]) -> None:
    """Keeps parameters from learning."""
    for parameter in parameters:
        parameter.requires_grad_(False)
