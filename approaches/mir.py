"""MIR: replays the exemplars that the coming step would harm most."""

import torch
from torch import Tensor
from torch.func import functional_call

from cl_ac.approach import Approach, Batch, ExitNetwork, Task, TrainingSet
from cl_ac.errors import ConfigurationError
from cl_ac.losses import cross_entropy, cross_entropy_per_sample
from cl_ac.memory import Numbered


class MIR(Approach):
    """Experience replay with maximally interfered retrieval (Aljundi et al., 2019): ER-MIR.

    Of the exemplars that a step draws, those are learned beside the new images whose loss would rise most in a step
    down the gradient of the new images alone. The final exit chooses, for all exits. Losses before and after that
    step are those of evaluation mode; in public code they move the running statistics of batch norm.

    An exemplar that a step draws more than once, as happens where the memory is small, is learned once, as long as
    there are others.

    New images and exemplars pass the network one after the other, as in public code.

    Args:
        replay: exemplars that a step learns.
        candidates: exemplars that it chooses from.
        virtual_lr: rate of the step that is only tried.
    """

    family = "replay"
    memory_use = "required"
    copes_with = frozenset({"repeated classes", "live memory", "no boundaries"})

    def __init__(self, replay: int = 10, candidates: int = 50, virtual_lr: float = 0.1):
        super().__init__()
        if not 1 <= replay <= candidates or virtual_lr <= 0:
            got = f"MIR.replay is {replay}, MIR.candidates {candidates} and MIR.virtual_lr {virtual_lr:g}"
            raise ConfigurationError(f"{got}; replay must be from 1 to candidates, and virtual_lr above 0")
        self.replay, self.candidates, self.virtual_lr = replay, candidates, virtual_lr

    def training_set(self, task: Task) -> TrainingSet:
        return TrainingSet(task.train, task, Numbered(self.memory), replay=(self.candidates,))

    def loss(self, network: ExitNetwork, batch: Batch) -> Tensor:
        classes, candidates = batch.task.seen_classes, batch.replay[0]
        loss = cross_entropy(network(batch.images), batch.targets, classes)
        if not len(candidates):
            return loss
        index = candidates.extras["index"]
        again = (index[:, None] == index).tril(-1).any(1)
        rise = self.interference(network, loss[-1], candidates).masked_fill(again, -torch.inf)
        chosen = rise.topk(min(self.replay, len(rise))).indices
        return loss + cross_entropy(network(candidates.images[chosen]), candidates.targets[chosen], classes)

    def interference(self, network: ExitNetwork, loss: Tensor, candidates: Batch) -> Tensor:
        """By how much the loss of each candidate rises at the final exit in a step down the gradient of `loss`: [B]."""
        named = {name: p for name, p in network.named_parameters() if p.requires_grad and p.numel()}
        gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
        with torch.no_grad():
            moved = {
                name: parameter - self.virtual_lr * gradient
                for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
            }
            was_training = network.training
            network.eval()
            before, after = (
                cross_entropy_per_sample(
                    functional_call(network, parameters, (candidates.images,))[-1:],
                    candidates.targets,
                    candidates.task.seen_classes,
                )
                for parameters in ({}, moved)
            )
            network.train(was_training)
        return (after - before)[0]
