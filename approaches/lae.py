"""LAE: what tunes a pretrained network learns each task, a slow average of it remembers, and both answer."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.func import functional_call

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.backbones.attention import find_attentions
from cl_ac.errors import ConfigurationError, unknown
from cl_ac.losses import cross_entropy
from cl_ac.training import Learning, ParameterGroup
from cl_ac.tuning.adapters import add_adapters
from cl_ac.tuning.bank import draw, tuning_parameters
from cl_ac.tuning.low_rank import add_low_rank
from cl_ac.tuning.prompted import add_prompts, promptable, prompts_in
from cl_ac.tuning.prompts import Prefixes

Kind = Literal["adapter", "lora", "prefix"]


class LAE(Approach):
    """Learning, accumulation, ensemble (Gao et al., 2023, ICCV), for a pretrained backbone, which stays as it is.

    Each task trains the cross-entropy over its classes: the heads, and after `frozen_epochs` the online parameters that
    tune the backbone. The offline ones are a copy of them after the first task, and follow each of their steps from
    then on: `offline ← decay · offline + (1 − decay) · online`. Of the probabilities that both give a class, the larger
    one is its score, at each exit. Two passes answer.

    Short runs want a smaller `decay`: with the default 1000 steps move the average a tenth of the way.

    Args:
        kind: `adapter`, beside feed-forward networks, or beside the larger convolutions of a backbone without any;
            `lora`, low-rank adapters on the keys and values of attention, or on all layers of a backbone without any;
            or `prefix`, keys and values that join those of attention.
        width: of adapters, or the rank.
        length: keys, and as many values, of a prefix.
        blocks: so many blocks, or convolutions, are tuned, from shallow to deep.
        frozen_epochs: epochs of each task at the beginning in which the heads learn alone.
        decay: how much of the offline parameters each step keeps.
    """

    family = "tuning"
    memory_use = "none"

    def __init__(
        self,
        kind: Kind = "adapter",
        width: int = 5,
        length: int = 10,
        blocks: int = 5,
        frozen_epochs: int = 3,
        decay: float = 0.9999,
    ):
        super().__init__()
        if kind not in get_args(Kind):
            raise ConfigurationError(unknown("approach.kind", kind, get_args(Kind)))
        if min(length, blocks) < 1 or frozen_epochs < 0 or not 0 <= decay < 1:
            raise ConfigurationError(
                f"LAE.length is {length}, LAE.blocks {blocks}, LAE.frozen_epochs {frozen_epochs} and LAE.decay "
                f"{decay:g}; the first two must be at least 1, the epochs at least 0, the decay at least 0 and below 1"
            )
        self.kind, self.width, self.length, self.blocks = kind, width, length, blocks
        self.frozen_epochs, self.decay = frozen_epochs, decay
        self.moving = False

    def prepare(self, backbone) -> None:
        backbone.freeze("all")
        if self.kind == "prefix":
            found = promptable(backbone, "LAE with prefixes")
            add_prompts(backbone, Prefixes(self.blocks, self.length, found.width), found)
        elif self.kind == "adapter":
            add_adapters(backbone, self.width, scale=1.0, dropout=0.0, first=self.blocks)
        elif find_attentions(backbone):
            add_low_rank(backbone, self.width, names=["key", "value"], first=2 * self.blocks)
        else:
            add_low_rank(backbone, self.width, first=self.blocks)

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first and self.kind == "prefix":
            prompts_in(network.backbone, Prefixes).draw(trainer.generator("prefixes"))
        elif task.is_first:
            draw(network, lambda index: trainer.generator("adapters", index))

    def learns(self, network: ExitNetwork) -> Learning:
        return [ParameterGroup(tuning_parameters(network).values(), weight_decay=0.0), *network.heads.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        # A task of few epochs leaves one for what tunes.
        waiting = batch.epoch < min(self.frozen_epochs, batch.epochs - 1)
        self.moving = not (waiting or batch.task.is_first)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not waiting):
            hidden = network.hidden(batch.images)
        loss = cross_entropy(network.classify(hidden), batch.targets, batch.task.classes)
        # A gradient of zero, since fused optimisers want one from the first step on.
        still = sum(value.sum() for value in tuning_parameters(network).values()) if waiting else 0
        return loss + 0 * still

    def end_step(self, network: ExitNetwork) -> None:
        if self.moving:
            online = [value.detach() for value in tuning_parameters(network).values()]
            torch._foreach_lerp_(self.offline, online, 1 - self.decay)

    def end_task(self, task, network, trainer) -> None:
        if task.is_first:
            for index, value in enumerate(tuning_parameters(network).values()):
                self.register_buffer(f"offline_{index}", value.detach().clone())

    @property
    def offline(self) -> list[Tensor]:
        """The offline parameters; none before the first task has ended."""
        return [value for name, value in self.named_buffers() if name.startswith("offline_")]

    def passes(self, network: ExitNetwork) -> int:
        return 2

    def answer(self, network: ExitNetwork, images: Tensor) -> Tensor:
        offline = dict(zip(tuning_parameters(network), self.offline, strict=False))
        slow = functional_call(network, offline, (images,))
        return torch.maximum(network(images).log_softmax(-1), slow.log_softmax(-1))
