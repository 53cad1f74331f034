"""HNET: a hypernetwork emits the weights of each task's network, and is kept from emitting others for old tasks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cl_ac.approach import Batch, ExitNetwork, TaskApproach
from cl_ac.errors import ConfigurationError
from cl_ac.hypernetworks.emitters import emitter
from cl_ac.hypernetworks.layout import Layout, Start, spread
from cl_ac.importance.gradients import gradients, joined
from cl_ac.losses import cross_entropy
from cl_ac.training import Learning, ParameterGroup


class HNET(TaskApproach):
    """Task-conditioned hypernetwork (von Oswald et al., 2020), for images whose task is known.

    Each task has an embedding e, of which a hypernetwork makes the weights of the backbone. It learns with a penalty on
    how much the weights that it emits for old tasks differ from those that it emitted before the task (eq. 2):
    `strength / old tasks · Σ |f(e; Θ) − stored|²`. Old embeddings and classifier rows stay as they are, and each task
    has statistics of batch norm of its own. All exits share the emitted weights, and the loss of each has the penalty.
    Weight decay acts on heads only.

    Args:
        strength: β of the penalty.
        embedding: values of a task's embedding.
        hidden: widths of the hypernetwork's hidden layers.
        chunk: weights that it emits at a time; 0 for all at once, by a row of its last layer for each.
        chunk_embedding: values of the embedding of each chunk.
        start: how the first weights are spread: `fan` keeps the variance of what passes through the layers, `own`
            stays near the backbone's weights, for a pretrained one.
        lookahead: length of a step down the gradient of the new images alone, after which the penalty looks at what is
            emitted (ΔΘ of eq. 2, held constant); 0 looks at what is emitted now.
    """

    family = "task networks"

    def __init__(
        self,
        strength: float = 0.01,
        embedding: int = 32,
        hidden: tuple[int, ...] = (64, 64),
        chunk: int = 2000,
        chunk_embedding: int = 32,
        start: Start = "fan",
        lookahead: float = 0.0,
    ):
        super().__init__()
        if min(strength, lookahead, chunk) < 0 or min(embedding, chunk_embedding, *hidden, 1) < 1:
            raise ConfigurationError(
                f"approach.strength is {strength:g}, lookahead {lookahead:g}, chunk {chunk}, embedding {embedding}, "
                f"chunk_embedding {chunk_embedding} and hidden {list(hidden)}; the first three must be at least 0, and "
                "the others at least 1"
            )
        self.strength, self.lookahead, self.start = strength, lookahead, start
        self.sizes = hidden, chunk, chunk_embedding
        self.embedding = nn.Parameter(torch.zeros(embedding))  # e of the newest task [D]
        self.register_buffer("embeddings", torch.empty(0, embedding))  # of each finished task [T, D]
        self.register_buffer("stored", torch.empty(0, 0))  # weights of each old task before the newest [T, P]
        self.register_buffer("statistics", torch.empty(0, 0))  # of each finished task's batch norm [T, S]

    def prepare(self, backbone) -> None:
        learning = (name for name, parameter in backbone.named_parameters() if parameter.requires_grad)
        self.layout = Layout.of(backbone, list(learning))
        hidden, *chunks = self.sizes
        self.emitter = emitter(len(self.embedding), hidden, spread(backbone, self.layout, self.start), *chunks)

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first:
            first = spread(network.backbone, self.layout, self.start)
            self.emitter.reset(first, trainer.generator("hypernetwork"))
        drawn = torch.randn(len(self.embedding), generator=trainer.generator("embedding", task.index))
        self.embedding = nn.Parameter(drawn.to(trainer.device))
        self.stored = self.emitter(self.embeddings).detach()
        self.put_into(network)

    def learns(self, network: ExitNetwork) -> Learning:
        mine = ParameterGroup([*self.emitter.parameters(), self.embedding], weight_decay=0.0)
        return [mine, *network.heads.parameters()]

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        logits = functional_call(network, self.weights(self.embedding), (batch.images,))
        loss = cross_entropy(logits, batch.targets, batch.task.classes)
        if batch.task.is_first:
            return loss
        if not self.lookahead:
            return loss + self.penalty({})
        return loss + torch.stack([self.penalty(self.ahead(each)) for each in loss])

    def ahead(self, loss: Tensor) -> dict[str, Tensor]:
        """The hypernetwork's parameters after a step down the gradient of `loss` []."""
        named = dict(self.emitter.named_parameters())
        slopes = gradients(loss, list(named.values()))
        return {name: p - self.lookahead * slope for (name, p), slope in zip(named.items(), slopes, strict=True)}

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """How much the weights of old tasks differ from what they were [], with some parameters replaced."""
        emitted = functional_call(self.emitter, dict(parameters), (self.embeddings,))
        return self.strength * (emitted - self.stored).square().sum() / len(self.stored)

    def end_task(self, task, network, trainer) -> None:
        self.embeddings = torch.cat([self.embeddings, self.embedding.detach()[None]])
        kept = joined(statistics(network).values(), trainer.device)
        self.statistics = torch.cat([self.statistics.view(-1, len(kept)), kept[None]])
        self.put_into(network)

    @torch.no_grad()
    def put_into(self, network: ExitNetwork) -> None:
        """Gives the backbone the weights of the newest task, for whoever looks at it as it is."""
        for name, value in self.weights(self.embedding).items():
            network.get_parameter(name).copy_(value)

    def weights(self, embedding: Tensor) -> dict[str, Tensor]:
        """The backbone's weights for an embedding [D], by their names in the network."""
        emitted = self.layout.split(self.emitter(embedding[None])[0])
        return {f"backbone.{name}": value for name, value in emitted.items()}

    def tensors_in_task(self, network: ExitNetwork, task: int) -> dict[str, Tensor]:
        if task >= len(self.embeddings):
            return self.weights(self.embedding)
        named = statistics(network)
        parts = self.statistics[task].split([value.numel() for value in named.values()])
        kept = {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}
        return self.weights(self.embeddings[task]) | kept


def statistics(network: ExitNetwork) -> dict[str, Tensor]:
    """What training moves in a backbone beside its parameters, such as the means of batch norm, by name."""
    named = network.backbone.named_buffers(prefix="backbone")
    return {name: value for name, value in named if value.is_floating_point()}
