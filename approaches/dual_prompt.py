"""DualPrompt: prompts for all tasks in shallow blocks of a frozen transformer, prompts of each task in deeper ones."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.network import Backbone
from cl_ac.tuning.prompted import add_prompts, check_blocks, promptable, prompts_in
from cl_ac.tuning.prompts import TaskPrompts


class DualPrompts(TaskPrompts):
    """General prompts, and an expert prompt with a key for each task; all are keys and values of the attention.

    Args:
        general_blocks, expert_blocks: which blocks are told what.
        general_length, expert_length: how many keys, and as many values, a prompt has.
        width: of the transformer.
        by_batch: whether a whole batch gets the expert prompt that most of its images chose.
    """

    old_keys: nn.Parameter
    new_keys: nn.Parameter
    old_experts: nn.Parameter
    new_experts: nn.Parameter

    def __init__(
        self,
        general_blocks: Sequence[int],
        expert_blocks: Sequence[int],
        general_length: int,
        expert_length: int,
        width: int,
        by_batch: bool,
    ):
        super().__init__(keys=(width,), experts=(len(expert_blocks), 2 * expert_length, width))
        self.general = nn.Parameter(torch.zeros(len(general_blocks), 2 * general_length, width))
        self.general_blocks, self.expert_blocks = list(general_blocks), list(expert_blocks)
        self.by_batch = by_batch

    def choose(self, query: Tensor) -> Tensor:
        """The task [B] whose key is nearest to the query of each image [B, D]."""
        cosines = F.normalize(query) @ F.normalize(self.all("keys")).T
        tasks = cosines.argmax(1)
        if not self.by_batch:
            return tasks
        counts = (tasks[:, None] == torch.arange(cosines.shape[1], device=tasks.device)).sum(0)
        return counts.argmax().expand(len(query))

    def told(self, block: int, query: Tensor, tokens: Tensor) -> Tensor | None:  # type: ignore[override]
        if block in self.general_blocks:
            told = self.general[self.general_blocks.index(block)].expand(len(tokens), -1, -1)
        elif block in self.expert_blocks:
            place = self.expert_blocks.index(block)
            if self.lesson is not None:
                told = self.new_experts[:, place].expand(len(tokens), -1, -1)
            elif len(experts := self.all("experts")):
                told = experts[self.choose(query), place]
            else:
                return None
        else:
            return None
        return told.unflatten(1, (2, -1))  # keys, values


class DualPrompt(Approach):
    """Complementary prompting (Wang et al., 2022, ECCV), on a frozen vision transformer.

    `CE(z, y) + pull · mean_x (1 − cos(q(x), k_t))` with the query q(x), the features that the network gives without
    prompts, and the key k_t of the task. A task learns with its own expert prompt, which is then frozen; at inference
    each image gets the one whose key is nearest to its query. General prompts learn in every task. The cross-entropy
    runs over the classes of the task. Exits read the class token; those before the expert blocks see general prompts
    alone. What pulls the key is one term for all exits and counts once, with the final one.

    Args:
        general_blocks: transformer blocks with general prompts, from 0.
        expert_blocks: those with expert prompts.
        general_length: keys, and as many values, of a general prompt.
        expert_length: those of an expert prompt (the authors' code: 5).
        pull: weight of what pulls a task's key to the queries.
        from_previous: whether an expert prompt begins as that of the task before, as in the authors' code.
        choice: `image`, each chooses its expert prompt; or `batch`, as in the authors' code: all images of a batch get
            the one that most of them chose, so that answers depend on the batch.
    """

    family = "tuning"
    memory_use = "none"
    needs_transformer = True

    def __init__(
        self,
        general_blocks: tuple[int, ...] = (0, 1),
        expert_blocks: tuple[int, ...] = (2, 3, 4),
        general_length: int = 5,
        expert_length: int = 20,
        pull: float = 1.0,
        from_previous: bool = True,
        choice: Literal["image", "batch"] = "image",
    ):
        super().__init__()
        if general_length < 1 or expert_length < 1 or pull < 0:
            raise ConfigurationError(
                f"DualPrompt.general_length is {general_length}, DualPrompt.expert_length {expert_length} and "
                f"DualPrompt.pull {pull:g}; the lengths must be at least 1, and pull at least 0"
            )
        self.general_blocks, self.expert_blocks = general_blocks, expert_blocks
        self.general_length, self.expert_length = general_length, expert_length
        self.pull, self.from_previous, self.choice = pull, from_previous, choice

    def prepare(self, backbone: Backbone) -> None:
        found = promptable(backbone, "DualPrompt")
        both = [*self.general_blocks, *self.expert_blocks]
        check_blocks("DualPrompt.general_blocks with DualPrompt.expert_blocks", both, found)
        lengths = self.general_length, self.expert_length
        blocks = self.general_blocks, self.expert_blocks
        add_prompts(backbone, DualPrompts(*blocks, *lengths, found.width, self.choice == "batch"), found)

    @torch.no_grad()
    def begin_task(self, task, network, trainer) -> None:
        prompts, stream = prompts_in(network.backbone, DualPrompts), trainer.generator("prompts", task.index)

        def drawn(like: Tensor) -> Tensor:
            # As in the authors' code.
            return 2 * torch.rand(like.shape[1:], generator=stream)[None] - 1

        if task.is_first:
            for general in prompts.general:
                general.copy_(drawn(general[None])[0])
        keys, experts = drawn(prompts.old_keys), drawn(prompts.old_experts)
        earlier = prompts.new_experts.clone()
        prompts.grow(keys=keys, experts=earlier if len(earlier) and self.from_previous else experts)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        prompts = prompts_in(network.backbone, DualPrompts)
        with prompts.learning() as lesson:
            logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, batch.task.classes)
        distance = 1 - F.cosine_similarity(lesson.query, prompts.new_keys).mean()
        return loss + self.pull * F.pad(distance[None], (len(loss) - 1, 0))
