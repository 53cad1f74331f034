"""A network that stops computing where its exit rule is satisfied.

Shapes: E exits, B batch, C classes seen.
"""

import copy
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from cl_ac.approach import Approach, TaskApproach
from cl_ac.data.layouts import Layout
from cl_ac.data.tasks import open_classes
from cl_ac.errors import ConfigurationError
from cl_ac.exits.folding import InferenceStages
from cl_ac.exits.heads import inference_head
from cl_ac.exits.rules import Carried, ExitRule, check_numbers, step
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


class Left(NamedTuple):
    """Images [B] that left at one exit.

    Args:
        samples: which images of the batch; None for all of it.
        predictions: int64 [B].
        confidences: [B].
        exit: its index; that after the last where no exit was sure.
    """

    samples: Tensor | None
    predictions: Tensor
    confidences: Tensor
    exit: int

    @staticmethod
    def together(parts: Sequence["Left"]) -> Answers:
        """The answers to the whole batch, each image of which is in one of the parts."""
        predictions = [part.predictions for part in parts]
        confidences = [part.confidences for part in parts]
        exits = [torch.full_like(part.predictions, part.exit) for part in parts]
        if len(parts) == 1:
            return Answers(predictions[0], confidences[0], exits[0])
        order = torch.cat([part.samples for part in parts]).argsort()
        return Answers(*(torch.cat(each)[order] for each in (predictions, confidences, exits)))


# Values of the feature maps of a batch, 1.6 MB in float32, that stay in a CPU core's caches from layer to layer.
CACHED_VALUES = 400_000


def images_in_cache(shapes: Sequence[Sequence[int]]) -> int:
    """How many images a CPU should run at a time through convolutional stages; all of them if there are none.

    Args:
        shapes: of what each stage gives for one image; vectors and token sequences do not count.
    """
    values = [math.prod(shape) for shape in shapes if len(shape) == 3]
    # With fewer than 8 images the weights would be read too often.
    return max(8, CACHED_VALUES // max(values)) if values else sys.maxsize


class Segment(nn.Module):
    """The part of a network from one exit to the next, for inference.

    Args:
        network: its stages are shared, or copied if they are folded; the head is a copy.
        index: the exit at the end.
        fold: whether stages take their form for inference (`InferenceStages`).
    """

    def __init__(self, network: ExitNetwork, index: int, fold: bool = False):
        super().__init__()
        self.index = index
        stages = nn.Sequential(*network.backbone.stages[slice(*network.bounds[index])])
        shape = network.shapes[index - 1] if index else network.backbone.image_shape
        self.stages = InferenceStages(stages, shape) if fold else stages
        self.images_in_cache = images_in_cache(network.stage_shapes[slice(*network.bounds[index])])
        self.head = inference_head(network.heads[index])

    def forward(self, hidden: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the next segment reads, and the logits [B, C] of the exit.

        Args:
            previous: logits [B, C] of the previous exit, which only a cascade reads.
        """
        hidden = self.stages(hidden)
        return hidden, self.head(hidden, previous)


class PlainModel(nn.Module):
    """The network without ACs in the form in which an early-exit model runs: images to logits [B, C].

    Args:
        network: its stages are shared, or copied if `fold`; the head is a copy.
        fold: as of `EarlyExitModel`.
    """

    def __init__(self, network: ExitNetwork, fold: bool = False):
        super().__init__()
        stages = nn.Sequential(*network.backbone.stages)
        self.stages = InferenceStages(stages, network.backbone.image_shape) if fold else stages
        self.images_in_cache = images_in_cache(network.stage_shapes)
        self.head = inference_head(network.heads[-1])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        parts = images.split(self.images_in_cache if images.device.type == "cpu" else sys.maxsize)
        return self.head(torch.cat([self.stages(part) for part in parts]))


class Passed(NamedTuple):
    """What one exit passes to the next, of samples [B].

    Args:
        hidden: the feature map [B, ...].
        logits: of the exit's head [B, C]; None before the first exit, or if nothing reads them.
        known: log-probabilities of all exits so far, for an inference classifier [exits, B, C].
    """

    hidden: Tensor
    logits: Tensor | None = None
    known: Tensor | None = None

    def select(self, samples: Tensor | slice) -> "Passed":
        """The same of some samples."""
        logits = None if self.logits is None else self.logits[samples]
        return Passed(self.hidden[samples], logits, None if self.known is None else self.known[:, samples])

    @staticmethod
    def joined(parts: Sequence["Passed"]) -> "Passed":
        """The same of the samples of all parts."""
        first = parts[0]
        logits = None if first.logits is None else torch.cat([part.logits for part in parts])
        known = None if first.known is None else torch.cat([part.known for part in parts], 1)
        return Passed(torch.cat([part.hidden for part in parts]), logits, known)


class EarlyExitModel(nn.Module):
    """Runs a network exit by exit, returns the samples that are sure, and goes on with the rest in a smaller batch.

    Its answers are those of `exits.rules.decide` on the outputs of the whole network, up to the rounding of kernels
    that compute a smaller batch, or the same product in fewer operations, in another order. It shares the backbone and
    the approach that it is given, in evaluation mode; heads (and, with `fold`, the backbone) are copies in the form
    that is fastest, so build it anew when the network has learned.

    Args:
        network: has seen at least one task.
        approach: corrects the logits or brings a classifier of its own; None takes the linear heads as they are.
        rule: when an exit's answer stands.
        fold: whether stages take their form for inference (`InferenceStages`).
    Raises:
        ConfigurationError: if the rule is for another number of exits, or the approach needs all exits at once.
    """

    open_classes: Tensor

    def __init__(self, network: ExitNetwork, approach: Approach | None, rule: ExitRule, fold: bool = False):
        super().__init__()
        self.network, self.approach = network, approach
        self.thresholds = rule.thresholds(len(network))
        if not network.num_classes:
            raise ConfigurationError("the network has no classes yet; an early-exit model needs one that has learned")
        segments = [Segment(network, index, fold) for index in range(len(network))]
        self.segments = nn.ModuleList(segments)
        device = network.device
        self.rule = rule.on(device)
        self.register_buffer("open_classes", open_classes(network.sizes).to(device), persistent=False)
        self.corrects = approach is not None and type(approach).correct is not Approach.correct
        self.eval()
        self._check_correction(device)

    def with_rule(self, rule: ExitRule) -> Self:
        """A model that shares everything with this one but its rule."""
        model = copy.copy(self)
        model.rule, model.thresholds = rule.on(self.open_classes.device), rule.thresholds(len(self.network))
        return model

    def _check_correction(self, device: torch.device) -> None:
        if self.approach is None:
            return
        name = type(self.approach).__name__
        if isinstance(self.approach, TaskApproach):
            raise ConfigurationError(
                f"{name} answers with a network for each task, and early exits run in one network alone (in Python: "
                "that of `approach.task_network`, without the approach)"
            )
        if type(self.approach).answer is not Approach.answer:
            raise ConfigurationError(f"{name} answers with all exits at once (`answer`), which no early exit can do")
        if self.approach.inference is not None and self.approach.inference.passes_before:
            raise ConfigurationError(
                f"{name} looks at the whole network before its exits answer, which no early exit can do"
            )
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

    def _advance(self, segment: Segment, passed: Passed) -> tuple[Tensor, Passed]:
        """Logits [B, C] of the exit at the end of a segment, and what the next one builds on."""
        hidden, logits, known = passed
        size = segment.images_in_cache
        if hidden.device.type == "cpu" and len(hidden) > size:
            # A head reads each part's feature map while it is still in the cache.
            parts = [passed.select(slice(start, start + size)) for start in range(0, len(hidden), size)]
            advanced = [self._advance(segment, part) for part in parts]
            return torch.cat([each for each, _ in advanced]), Passed.joined([part for _, part in advanced])
        hidden = segment.stages(hidden)
        classifier = None if self.approach is None else self.approach.inference
        if classifier is None or classifier.reads_logits:
            logits = segment.head(hidden, logits)
        if classifier is None:
            return self._correct(segment.index, logits.float()).float(), Passed(hidden, logits)
        layout = cast(Layout, self.network.heads[segment.index].layout)
        features = cast(Tensor, logits) if classifier.reads_logits else classifier.vector(hidden, layout)
        own = classifier.score(segment.index, features.float()).log_softmax(-1)[None]
        known = own if known is None else torch.cat([known, own])
        return classifier.logits_at(segment.index, known).float(), Passed(hidden, logits, known)

    @torch.inference_mode()
    def forward(self, images: Tensor, tasks: Tensor | None = None) -> Answers:
        """The answers to images [B, channels, height, width].

        Args:
            tasks: the task of each image [B] where it is known; only its classes are then answered, which are the new
                ones alone also where a domain brings them beside known ones.
        Raises:
            UserError: if a logit is not a number.
        """
        if self.network.training:
            self.eval()
        if not len(images):
            empty = torch.empty(0, dtype=torch.int64, device=images.device)
            return Answers(empty, empty.float(), empty)
        passed, carried = Passed(images), Carried()
        inside: Tensor | None = None  # which images are left; None for all
        seen, left = [], []
        segments = cast(Iterable[Segment], self.segments)
        for segment, threshold in zip(segments, self.thresholds, strict=True):
            logits, passed = self._advance(segment, passed)
            if tasks is not None:
                logits = logits.where(self.open_classes[tasks], -torch.inf)
            taken = step(self.rule, threshold, segment.index, logits, carried)
            answer, carried = taken.answer, taken.carried
            seen.append(answer.confidences)
            leaving = sum(score >= threshold for score in taken.scores.tolist())
            if leaving == len(logits):
                left.append(Left(inside, answer.predictions, answer.confidences, segment.index))
                break
            if leaving:
                # One stable sort separates those who leave from those who stay without asking the device again.
                order = taken.leaves.byte().argsort(stable=True)
                stay, leave = order[:-leaving], order[-leaving:]
                samples = leave if inside is None else inside[leave]
                left.append(Left(samples, answer.predictions[leave], answer.confidences[leave], segment.index))
                inside = stay if inside is None else inside[stay]
                tasks = None if tasks is None else tasks[stay]
                passed, carried = passed.select(stay), carried.select(stay)
        else:
            _, predictions, confidences = carried.fallback(self.rule)
            left.append(Left(inside, predictions, confidences, len(self.network)))
        check_numbers(torch.cat(seen))
        return Left.together(left)
