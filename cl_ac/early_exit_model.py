"""A network that stops computing where its exit rule is satisfied.

Shapes: E exits, B batch, C classes seen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach
from cl_ac.errors import ConfigurationError
from cl_ac.exit_rules import Rule, check_numbers, step
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


class EarlyExitModel(nn.Module):
    """Runs a network exit by exit, returns the samples that are sure, and goes on with the rest in a smaller batch.

    Its answers are those of `exit_rules.decide` on the outputs of the whole network, up to the rounding of kernels that
    compute a smaller batch in another order. It shares the network and the approach it is given, in evaluation mode.

    Args:
        network: has seen at least one task.
        approach: corrects the logits or brings a classifier of its own; None takes the linear heads as they are.
        rule: when an exit's answer stands.
    Raises:
        ConfigurationError: if the rule is for another number of exits, or the approach needs all exits at once.
    """

    def __init__(self, network: ExitNetwork, approach: Approach | None, rule: Rule):
        super().__init__()
        self.network, self.approach, self.rule = network, approach, rule
        self.thresholds = rule.thresholds(len(network))
        if not network.num_classes:
            raise ConfigurationError("the network has no classes yet; an early-exit model needs one that has learned")
        device = network.heads[-1].classifier.new_weight.device
        tasks = torch.arange(len(network.sizes)).repeat_interleave(torch.tensor(network.sizes))
        self.register_buffer("task_of_class", tasks.to(device), persistent=False)
        self.eval()
        self._check_correction(device)

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
        if self.approach is None or type(self.approach).correct is Approach.correct:
            return logits
        return self.approach.correct(logits.expand(len(self.network), *logits.shape))[index]

    def _answer(self, index: int, hidden: Tensor, earlier: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits [B, C] of exit `index`, and the log-probabilities of all exits so far if deeper ones build on them."""
        classifier = self.approach.inference if self.approach else None
        if classifier is None:
            return self._correct(index, self.network.heads[index](hidden).float()).float(), None
        own = classifier.score(index, classifier.vector(hidden).float()).log_softmax(-1)[None]
        known = own if earlier is None else torch.cat([earlier, own])
        return classifier.logits_at(index, known).float(), known

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
        predictions, exits = torch.empty(2, count, dtype=torch.int64, device=images.device)
        confidences = torch.empty(count, device=images.device)
        inside = torch.arange(count, device=images.device)
        hidden, earlier, carried = images, None, None
        seen = []
        if not count:
            return Answers(predictions, confidences, exits)
        for index, threshold in enumerate(self.thresholds):
            hidden = self.network.segment(index, hidden)
            logits, earlier = self._answer(index, hidden, earlier)
            if tasks is not None:
                logits = logits.masked_fill(self.task_of_class != tasks[inside, None], -torch.inf)
            taken = step(self.rule, threshold, index, logits, carried)
            carried = taken.carried
            seen.append(taken.confidences)
            leaving = int(taken.leaves.sum())
            if not leaving:
                continue
            if leaving == len(inside):
                predictions[inside], confidences[inside] = taken.predictions, taken.confidences
                exits[inside] = index
                break
            # One stable sort separates those who leave from those who stay without asking the device again.
            order = taken.leaves.byte().argsort(stable=True)
            stay, leave = order[:-leaving], order[-leaving:]
            predictions[inside[leave]] = taken.predictions[leave]
            confidences[inside[leave]] = taken.confidences[leave]
            exits[inside[leave]] = index
            inside, hidden, carried = inside[stay], hidden[stay], carried.select(stay)
            earlier = None if earlier is None else earlier[:, stay]
        else:
            predictions[inside], confidences[inside] = carried.predictions, carried.confidences
            exits[inside] = len(self.network)
        check_numbers(torch.cat(seen))
        return Answers(predictions, confidences, exits)
