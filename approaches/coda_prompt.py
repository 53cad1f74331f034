"""CODA-Prompt: prompts of a frozen transformer are sums of components, weighted by attention to the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl_ac.approach import Approach, Batch, ExitNetwork
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy
from cl_ac.network import Backbone
from cl_ac.tuning.prompted import add_prompts, check_blocks, promptable, prompts_in
from cl_ac.tuning.prompts import TaskPrompts


class Components(TaskPrompts):
    """Components of prompts, with their keys and attention vectors, for some blocks: M of them, in prompts of length L.

    Args:
        blocks: which blocks are told prompts.
        length: L, of which the first half are keys of the attention and the others values.
        width: D of the transformer.
    """

    new_keys: nn.Parameter

    def __init__(self, blocks: Sequence[int], length: int, width: int):
        vectors = (len(blocks), width)
        super().__init__(keys=vectors, attention=vectors, components=(len(blocks), length, width))
        self.blocks = list(blocks)

    def told(self, block: int, query: Tensor, tokens: Tensor) -> Tensor | None:  # type: ignore[override]
        if block not in self.blocks:
            return None
        place = self.blocks.index(block)
        keys, attention, components = (self.all(name)[:, place] for name in self.names)
        if not len(keys):
            return None
        weights = F.cosine_similarity(query[:, None] * attention, keys, -1)  # [B, M]
        prompts = torch.einsum("bm,mld->bld", weights, components)
        return prompts.unflatten(1, (2, -1))

    def overlap(self) -> Tensor:
        """How far keys, attention vectors and components are from orthogonal: a sum over the blocks []."""
        total = torch.zeros((), device=self.new_keys.device)
        for name in self.names:
            vectors = self.all(name).flatten(2).transpose(0, 1)  # [blocks, M, values]
            unit = torch.eye(vectors.shape[1], device=vectors.device)
            total = total + (vectors @ vectors.mT - unit).square().mean((1, 2)).sum()
        return total


class CODAPrompt(Approach):
    """Continual decomposed attention-based prompting (Smith et al., 2023), on a frozen vision transformer.

    The prompt of a block is `Σ_m α_m P_m` with `α_m = cos(q(x) ⊙ A_m, K_m)` and the query q(x), the features that the
    network gives without prompts. Each task adds components P, keys K and attention vectors A, which begin orthogonal
    to those before and are frozen after it. `CE(z, y) + orthogonality · Σ (mean (K Kᵀ − 1)² + the same of A and P)`,
    the cross-entropy over the classes of the task. Exits read the class token. What keeps vectors orthogonal is one
    term for all exits and counts once, with the final one.

    Args:
        components: how many each task adds (the paper: 100 in all).
        length: of a prompt; the first half joins the keys of the attention, the other the values.
        blocks: transformer blocks with prompts, from 0.
        orthogonality: weight of what keeps vectors orthogonal (the authors' newer code: 0).
    """

    family = "tuning"
    memory_use = "none"
    needs_transformer = True

    def __init__(
        self,
        components: int = 10,
        length: int = 8,
        blocks: tuple[int, ...] = (0, 1, 2, 3, 4),
        orthogonality: float = 0.1,
    ):
        super().__init__()
        if components < 1 or length < 2 or length % 2 or orthogonality < 0:
            raise ConfigurationError(
                f"CODAPrompt.components is {components}, CODAPrompt.length {length} and CODAPrompt.orthogonality "
                f"{orthogonality:g}; a task adds at least 1 component, of an even length of at least 2, and "
                "orthogonality is at least 0"
            )
        self.components, self.length, self.blocks = components, length, blocks
        self.orthogonality = orthogonality

    def prepare(self, backbone: Backbone) -> None:
        found = promptable(backbone, "CODAPrompt")
        check_blocks("CODAPrompt.blocks", self.blocks, found)
        add_prompts(backbone, Components(self.blocks, self.length, found.width), found)

    def begin_task(self, task, network, trainer) -> None:
        prompts, stream = prompts_in(network.backbone, Components), trainer.generator("prompts", task.index)
        new = {}
        for name in prompts.names:
            earlier = prompts.all(name, new_too=True).detach().cpu()
            drawn = torch.randn(self.components, *earlier.shape[1:], generator=stream)
            pairs = zip(earlier.flatten(2).unbind(1), drawn.flatten(2).unbind(1), strict=True)
            new[name] = torch.stack([orthogonal(*pair) for pair in pairs], 1).view_as(drawn)
        prompts.grow(**new)

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        prompts = prompts_in(network.backbone, Components)
        with prompts.learning():
            logits = network(batch.images)
        loss = cross_entropy(logits, batch.targets, batch.task.classes)
        return loss + self.orthogonality * F.pad(prompts.overlap()[None], (len(loss) - 1, 0))


def orthogonal(earlier: Tensor, drawn: Tensor) -> Tensor:
    """Vectors of length 1 in the directions of `drawn` [N, D], as far as D allows orthogonal to `earlier` [M, D] and
    to each other; those that find no room keep the direction that was drawn."""
    basis = torch.linalg.qr(torch.cat([earlier, drawn]).T).Q.T
    found = F.normalize(drawn)
    found[: max(0, len(basis) - len(earlier))] = basis[len(earlier) :]
    return found
