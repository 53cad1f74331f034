"""HAT: tasks learn which units they need, and what earlier ones need does not change."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cl_ac.approach import Batch, ExitNetwork, TaskApproach
from cl_ac.backbones.gating import gates, make_gated, parameters_between, split_units
from cl_ac.errors import ConfigurationError
from cl_ac.importance.gradients import joined, protected
from cl_ac.importance.holding import held
from cl_ac.losses import cross_entropy
from cl_ac.training import Learning, ParameterGroup


class HAT(TaskApproach):
    """Hard attention to the task (Serrà et al., 2018), for images whose task is known.

    Each task multiplies all units by gates `σ(s · e)` and learns e; s rises over each epoch from 1/s_max to s_max
    (eq. 3), so that gates end near 0 or 1. Weights between units that earlier tasks use are held (eq. 2), and a
    regulariser makes a task use few units beside those (eq. 5). Gradients of e are compensated for s (eq. 6).

    At inference gates are 0 or 1, so that the features of earlier tasks stay as they are bit for bit. The paper's
    networks have no batch norm; here it stays as the first task left it. All exits share the gates, and the loss of
    each has the regulariser. Weight decay acts on heads only.

    Args:
        strength: c of the regulariser.
        largest_scale: s_max.
    """

    family = "task networks"

    def __init__(self, strength: float = 0.75, largest_scale: float = 400.0):
        super().__init__()
        if largest_scale < 1:
            raise ConfigurationError(f"approach.largest_scale is {largest_scale:g}; it must be at least 1")
        self.strength, self.largest_scale = strength, largest_scale
        self.embedding = nn.Parameter(torch.empty(0))  # e of the newest task [U]
        self.register_buffer("used", torch.empty(0, 0, dtype=torch.bool))  # units of each finished task [T, U]
        self.register_buffer("fixed", torch.empty(0, dtype=torch.bool))  # backbone parameters that are held [P]

    def prepare(self, backbone) -> None:
        make_gated(backbone)

    def begin_task(self, task, network, trainer) -> None:
        units = sum(len(gate.value) for gate in gates(network.backbone).values())
        drawn = torch.randn(units, generator=trainer.generator("embedding", task.index))
        self.embedding = nn.Parameter(drawn.to(trainer.device))
        self.used = self.used.view(-1, units)
        between = parameters_between(network.backbone, self.used.any(0))
        held_back = (between[name.removeprefix("backbone.")] for name in protected(network))
        self.fixed = joined(held_back, trainer.device).bool()

    def learns(self, network: ExitNetwork) -> Learning:
        backbone = ParameterGroup([*network.backbone.parameters(), self.embedding], weight_decay=0.0)
        return [backbone, *network.heads.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        if not batch.task.is_first:
            network.backbone.eval()
        # A single step has the gates of inference.
        done = batch.step / (batch.steps - 1) if batch.steps > 1 else 1.0
        scale = 1 / self.largest_scale + (self.largest_scale - 1 / self.largest_scale) * done
        opened = torch.sigmoid(scale * compensated(self.embedding, scale, self.largest_scale))
        tensors = {**held(network, self.fixed), **gate_values(network, opened)}
        loss = cross_entropy(functional_call(network, tensors, (batch.images,)), batch.targets, batch.task.classes)
        return loss + self.strength * share_opened(opened, self.used.any(0))

    @torch.no_grad()
    def end_step(self, network: ExitNetwork) -> None:
        self.embedding.clamp_(-6, 6)

    def end_task(self, task, network, trainer) -> None:
        self.used = torch.cat([self.used, self.embedding.detach()[None] > 0])

    def tensors_in_task(self, network: ExitNetwork, task: int) -> dict[str, Tensor]:
        used = self.used[task] if task < len(self.used) else self.embedding > 0
        return gate_values(network, used.float())


def gate_values(network: ExitNetwork, values: Tensor) -> dict[str, Tensor]:
    """Values [U] as the gates' buffers, by their names in the network."""
    return {f"backbone.{name}.value": part for name, part in split_units(network.backbone, values).items()}


def compensated(embedding: Tensor, scale: float, largest_scale: float) -> Tensor:
    """The same values, whose gradient is multiplied by `s_max / s · (cosh(s e) + 1) / (cosh(e) + 1)` (eq. 6)."""
    values = embedding.detach()
    factor = largest_scale / scale * (torch.cosh((scale * values).clamp(-50, 50)) + 1) / (torch.cosh(values) + 1)
    return values + factor * (embedding - values)


def share_opened(opened: Tensor, used: Tensor) -> Tensor:
    """How much of what earlier tasks leave free is open (eq. 5): [], of gates [U] and whether they used them [U]."""
    free = 1 - used.to(opened.dtype)
    return (opened * free).sum() / free.sum().clamp(min=1)
