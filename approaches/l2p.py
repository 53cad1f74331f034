"""L2P: a pool of prompts, of which each image chooses some that a frozen transformer is told."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.network import Backbone
from cl_ac.tuning.prompted import add_prompts, promptable, prompts_in
from cl_ac.tuning.prompts import Prompts


class PromptPool(Prompts):
    """Prompts that are chosen by their keys, and join the sequence before the first block.

    Args:
        size: prompts in the pool.
        length: tokens of a prompt.
        chosen: how many an image chooses.
        width: of the transformer.
        choice: whether each `image` chooses, or a whole `batch` the prompts that most of its images chose.
        reads: what exits read: the `prompts`' outputs or the `class_token`.
    """

    stay = True

    def __init__(self, size: int, length: int, chosen: int, width: int, choice: str, reads: str):
        super().__init__()
        self.chosen, self.by_batch, self.speak = chosen, choice == "batch", reads == "prompts"
        self.keys = nn.Parameter(torch.zeros(size, width))
        self.prompts = nn.Parameter(torch.zeros(size, length, width))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Uniform values between -1 and 1, as in the authors' code."""
        for values in (self.keys, self.prompts):
            values.copy_(2 * torch.rand(values.shape, generator=generator) - 1)

    def choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Which prompts are chosen, and how near their keys are: indices and cosines [B, chosen]."""
        cosines = F.normalize(query) @ F.normalize(self.keys).T
        indices = cosines.topk(self.chosen).indices
        if self.by_batch:
            each = torch.arange(len(self.keys), device=indices.device)
            counts = (indices[:, :, None] == each).sum((0, 1))
            indices = counts.argsort(descending=True, stable=True)[: self.chosen].expand(len(query), -1)
        return indices, cosines.gather(1, indices)

    def told(self, block: int, query: Tensor, tokens: Tensor) -> Tensor | None:  # type: ignore[override]
        return None if block else self.prompts[self.choose(query)[0]].flatten(1, 2)


class L2P(Approach):
    """Learning to prompt (Wang et al., 2022, CVPR), on a frozen vision transformer.

    `CE(z, y) − pull · mean_x Σ_i cos(q(x), k_i)` over the prompts that an image chooses: those with the keys k_i
    nearest to its query q(x), the features that the network gives without prompts. The cross-entropy runs over the
    classes of the task. Every exit reads the mean of the prompts' outputs at its depth, normalised; the authors normalise before
    they take the mean. What pulls the keys is one term for all exits and counts once, with the final one.

    Args:
        pool: prompts in the pool.
        length: tokens of a prompt.
        chosen: how many an image chooses.
        pull: weight of what pulls chosen keys to the queries.
        choice: `image`, each chooses for itself; or `batch`, as in the authors' code: all images of a batch get the
            prompts that most of them chose, in training and evaluation, so that answers depend on the batch.
        reads: whether exits read the outputs of the `prompts` or the `class_token`.
    """

    family = "tuning"
    memory_use = "none"
    needs_transformer = True

    def __init__(
        self,
        pool: int = 10,
        length: int = 5,
        chosen: int = 5,
        pull: float = 0.5,
        choice: Literal["image", "batch"] = "image",
        reads: Literal["prompts", "class_token"] = "prompts",
    ):
        super().__init__()
        if not 1 <= chosen <= pool or length < 1 or pull < 0:
            raise ConfigurationError(
                f"L2P.chosen is {chosen}, L2P.pool {pool}, L2P.length {length} and L2P.pull {pull:g}; an image chooses "
                "at least 1 prompt and at most all, a prompt has at least 1 token, and pull is at least 0"
            )
        self.pool, self.length, self.chosen, self.pull = pool, length, chosen, pull
        self.choice, self.reads = choice, reads

    def prepare(self, backbone: Backbone) -> None:
        found = promptable(backbone, "L2P")
        pool = PromptPool(self.pool, self.length, self.chosen, found.width, self.choice, self.reads)
        add_prompts(backbone, pool, found)

    def begin_task(self, task, network, trainer) -> None:
        if task.is_first:
            prompts_in(network.backbone, PromptPool).draw(trainer.generator("prompts"))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        pool = prompts_in(network.backbone, PromptPool)
        with pool.learning() as lesson:
            logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, batch.task.classes)
        nearness = pool.choose(lesson.query)[1].sum(1).mean()
        return loss - self.pull * F.pad(nearness[None], (len(loss) - 1, 0))
