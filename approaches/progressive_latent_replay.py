"""Progressive latent replay: deep layers, which forget more, are rehearsed more often than shallow ones."""

import math
from itertools import pairwise
from typing import Literal

from torch import nn

from cl_ac.approach import ExitNetwork
from cl_ac.approaches.internal_replay import InternalReplay
from cl_ac.errors import ConfigurationError
from cl_ac.generators.frequencies import Rule, check_frequencies, frequencies
from cl_ac.network import Backbone


class ProgressiveLatentReplay(InternalReplay):
    """Progressive latent replay (Pawlak et al., 2022): each sample enters after one of several stages.

    How many enter where is set by `frequencies`. Samples run neither forward nor backward through the stages below
    their own, and the generator decodes them no further than to it. Stages up to the first of `at` learn the first task
    and are then frozen. An AC learns from the samples that enter at its stage or below; one that none reaches gets
    nothing of the replay, and goes on with the new classes alone.

    Args:
        at: stages whose outputs are replayed, from shallow to deep, or `images`. None is the stage that
            `InternalReplay` takes, and all later ones that something with weights follows.
        frequencies: the share of the samples that enters at each stage: `basic` 1 / L of L; proportional to
            1 / Σ_{m ≥ l} w_m (`cumulative_weights`), 1 / w_l (`total_weights`), the stage's features (`input_size`) or
            its number (`layer_index`), with w_l weights from stage l up to the next; or a list, which sums to 1.
        taught_at: whether the teacher sees samples where they enter, or always at the `first` stage, as in published
            code, so that all have to be decoded to there.
        rehearsal: samples that the generator learns again itself, all decoded, as a share of those of the network.
    """

    def __init__(
        self,
        at: list[str] | None = None,
        frequencies: Rule | list[float] = "cumulative_weights",
        taught_at: Literal["own", "first"] = "own",
        rehearsal: float = 1.0,
        **replaying,
    ):
        super().__init__(**replaying)
        if not 0 < rehearsal <= 1:
            raise ConfigurationError(
                f"ProgressiveLatentReplay.rehearsal is {rehearsal:g}; it must be above 0 and at most 1"
            )
        self.stages, self.frequencies, self.taught_at, self.rehearsal = at, frequencies, taught_at, rehearsal

    def places(self, backbone: Backbone) -> list[int]:
        if self.stages is None:
            (first,) = super().places(backbone)
            followed = [any(p.numel() for p in stage.parameters()) for stage in backbone.stages] + [True]
            found = [place for place in range(first + 1, len(followed)) if followed[place]]
            return [first, *found]
        found = [self.place(stage, "at", backbone) for stage in self.stages]
        if not found or sorted(set(found)) != found:
            raise ConfigurationError(
                f"ProgressiveLatentReplay.at is {self.stages}; name at least one stage, each once, from shallow to deep"
            )
        return found

    def prepare(self, backbone: Backbone) -> None:
        places = self.places(backbone)
        if isinstance(self.frequencies, list):
            check_frequencies(self.frequencies, len(places), "ProgressiveLatentReplay.frequencies")
        else:
            frequencies(self.frequencies, self.weights(backbone, 1), [1] * len(places))

    def shares(self, network: ExitNetwork) -> list[float]:
        if isinstance(self.frequencies, list):
            return self.frequencies
        shapes = [network.backbone.image_shape, *network.stage_shapes]
        sizes = [math.prod(shapes[place]) for place in self.places(network.backbone)]
        return frequencies(self.frequencies, self.weights(network.backbone, numbers_in(network.heads[-1])), sizes)

    def weights(self, backbone: Backbone, answering: int) -> list[int]:
        """Weights and biases from each level up to the next, of which `answering` ones make the logits."""
        bounds = pairwise([*self.places(backbone), len(backbone.stages)])
        *lower, last = (numbers_in(backbone.stages[start:end]) for start, end in bounds)
        return [*lower, last + answering]


def numbers_in(module: nn.Module) -> int:
    """How many weights and biases `module` has."""
    return sum(parameter.numel() for parameter in module.parameters())
