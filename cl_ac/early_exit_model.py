"""A network that stops computing where its exit rule is satisfied.

Shapes: E exits, B batch, C classes seen.
"""

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach
from cl_ac.errors import ConfigurationError
from cl_ac.exit_rules import Carried, Rule, check_numbers, step
from cl_ac.folding import fold_batch_norm
from cl_ac.network import ExitNetwork


@dataclass(frozen=True)
class Answers:
    """What an early-exit model says of a batch.

    Args:
        predictions: int64 [B].
        confidences: probability of each prediction [B].
        exits: where each sample left, E where no exit was sure: int64 [B].
    """

    predictions: Tensor
    confidences: Tensor
    exits: Tensor


class Segment(nn.Module):
    """The part of a network from one exit to the next, for inference.

    Args:
        network: its stages are shared, or copied if they are folded; the head is a copy.
        index: the exit at the end.
        fold: whether convolutions absorb batch norm.
    """

    def __init__(self, network: ExitNetwork, index: int, fold: bool = False):
        super().__init__()
        stages = nn.Sequential(*network.backbone.stages[slice(*network.bounds[index])])
        self.stages = fold_batch_norm(stages) if fold else stages
        self.head = network.heads[index].for_inference()

    def forward(self, hidden: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the next segment reads, and the logits [B, C] of the exit.

        Args:
            previous: logits [B, C] of the previous exit, which only a cascade reads.
        """
        hidden = self.stages(hidden)
        return hidden, self.head(hidden, previous)


def plain_model(network: ExitNetwork, fold: bool = False) -> nn.Module:
    """The network without ACs in the form in which an early-exit model runs: images to logits [B, C]."""
    stages = nn.Sequential(*network.backbone.stages)
    return nn.Sequential(fold_batch_norm(stages) if fold else stages, network.heads[-1].for_inference()).eval()


class EarlyExitModel(nn.Module):
    """Runs a network exit by exit, returns the samples that are sure, and goes on with the rest in a smaller batch.

    Its answers are those of `exit_rules.decide` on the outputs of the whole network, up to the rounding of kernels that
    compute a smaller batch, or the same product in fewer operations, in another order. It shares the backbone and the
    approach that it is given, in evaluation mode; heads (and, with `fold`, the backbone) are copies in the form that is
    fastest, so build it anew when the network has learned.

    Args:
        network: has seen at least one task.
        approach: corrects the logits or brings a classifier of its own; None takes the linear heads as they are.
        rule: when an exit's answer stands.
        fold: whether convolutions absorb batch norm.
    Raises:
        ConfigurationError: if the rule is for another number of exits, or the approach needs all exits at once.
    """

    def __init__(self, network: ExitNetwork, approach: Approach | None, rule: Rule, fold: bool = False):
        super().__init__()
        self.network, self.approach, self.rule = network, approach, rule
        self.thresholds = rule.thresholds(len(network))
        if not network.num_classes:
            raise ConfigurationError("the network has no classes yet; an early-exit model needs one that has learned")
        self.segments = nn.ModuleList([Segment(network, index, fold) for index in range(len(network))])
        device = network.heads[-1].classifier.new_weight.device
        tasks = torch.arange(len(network.sizes)).repeat_interleave(torch.tensor(network.sizes))
        self.register_buffer("task_of_class", tasks.to(device), persistent=False)
        self.corrects = approach is not None and type(approach).correct is not Approach.correct
        self.eval()
        self._check_correction(device)

    def with_rule(self, rule: Rule) -> Self:
        """A model that shares everything with this one but its rule."""
        model = copy.copy(self)
        model.rule, model.thresholds = rule, rule.thresholds(len(self.network))
        return model

    def _check_correction(self, device: torch.device) -> None:
        if self.approach is None:
            return
        name = type(self.approach).__name__
        if type(self.approach).answer is not Approach.answer:
            raise ConfigurationError(f"{name} answers with all exits at once (`answer`), which no early exit can do")
        stream = torch.Generator().manual_seed(0)
        logits = torch.randn(len(self.network), 2, self.network.num_classes, generator=stream).to(device)
        together = self.approach.correct(logits)
        alone = torch.stack([self._correct(index, each) for index, each in enumerate(logits)])
        if not torch.allclose(together, alone):
            raise ConfigurationError(f"{name} corrects exits by one another (`correct`), which no early exit can do")

    def _correct(self, index: int, logits: Tensor) -> Tensor:
        """The approach's correction of logits [B, C] of exit `index`, as if all other exits said the same."""
        if not self.corrects:
            return logits
        return self.approach.correct(logits.expand(len(self.network), *logits.shape))[index]

    def _answer(
        self, index: int, hidden: Tensor, previous: Tensor | None, known: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits [B, C] of exit `index`, and what deeper exits build on: the head's own logits [B, C], and the
        log-probabilities [index + 1, B, C] of all exits so far if there is an inference classifier."""
        classifier = self.approach.inference if self.approach else None
        if classifier is None or classifier.reads_logits:
            previous = self.segments[index].head(hidden, previous)
        if classifier is None:
            return self._correct(index, previous.float()).float(), previous, None
        features = previous if classifier.reads_logits else classifier.vector(hidden)
        own = classifier.score(index, features.float()).log_softmax(-1)[None]
        known = own if known is None else torch.cat([known, own])
        return classifier.logits_at(index, known).float(), previous, known

    @torch.inference_mode()
    def forward(self, images: Tensor, tasks: Tensor | None = None) -> Answers:
        """The answers to images [B, channels, height, width].

        Args:
            tasks: the task of each image [B] where it is known; only its classes are then answered.
        Raises:
            UserError: if a logit is not a number.
        """
        if self.network.training:
            self.eval()
        count = len(images)
        inside = torch.arange(count, device=images.device)
        predictions, exits = torch.empty_like(inside), torch.full_like(inside, len(self.network))
        confidences = torch.empty(count, device=images.device)
        hidden, previous, known, carried = images, None, None, Carried()
        seen = []
        if not count:
            return Answers(predictions, confidences, exits)
        for index, threshold in enumerate(self.thresholds):
            hidden = self.segments[index].stages(hidden)
            logits, previous, known = self._answer(index, hidden, previous, known)
            if tasks is not None:
                logits = logits.masked_fill(self.task_of_class != tasks[inside, None], -torch.inf)
            taken = step(self.rule, threshold, index, logits, carried)
            answer, carried = taken.answer, taken.carried
            seen.append(answer.confidences)
            leaving = int(taken.leaves.sum())
            if not leaving:
                continue
            if leaving == count:
                predictions, confidences, exits = answer.predictions, answer.confidences, exits.fill_(index)
                break
            if leaving == len(inside):
                predictions[inside], confidences[inside], exits[inside] = answer.predictions, answer.confidences, index
                break
            # One stable sort separates those who leave from those who stay without asking the device again.
            order = taken.leaves.byte().argsort(stable=True)
            stay, leave = order[:-leaving], order[-leaving:]
            predictions[inside[leave]] = answer.predictions[leave]
            confidences[inside[leave]] = answer.confidences[leave]
            exits[inside[leave]] = index
            inside, hidden, carried = inside[stay], hidden[stay], carried.select(stay)
            previous = None if previous is None else previous[stay]
            known = None if known is None else known[:, stay]
        else:
            _, predictions[inside], confidences[inside] = carried.fallback(self.rule)
        check_numbers(torch.cat(seen))
        return Answers(predictions, confidences, exits)
