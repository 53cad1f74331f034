"""Where auxiliary classifiers hang, and how much they weigh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cl_ac.data.layouts import AXES, TEXT_READINGS, Layout
from cl_ac.errors import ConfigurationError, unknown

# What `tokens` names, as a layout.
TOKEN_LAYOUTS: dict[str, Layout] = {"class": "class_token", "mean": "tokens", "patches": "patches", "map": "patch_map"}
TEXT_LAYOUTS: dict[str, Layout] = {"class": "text_class", "mean": "text_mean", "last": "text_last"}
# A class token and registers; more mean that patches make no square.
MOST_OTHER_TOKENS = 16


@dataclass(frozen=True)
class Exits:
    """Where auxiliary classifiers (ACs) hang and how much their losses weigh; the final classifier comes on top.

    Args:
        at: the stages at whose end an AC hangs, shallowest first, by their names or numbers from 0.
        weights: final loss weight of each AC; the final classifier's is 1.
        ramp: `linear` raises each weight from 0.01 to its final value over the epochs of a task, `constant` keeps it.
        pool: factor by which a feature map's sides shrink before the classifier.
        detach: whether ACs only read the backbone and send no gradient into it (linear probing).
        cascade: whether each AC also reads the logits of the AC before it, without gradient (Wołczyk et al., 2021,
            ZTW); the final classifier never does.
        tokens: what ACs read of a transformer's tokens: the `class` token, the `mean` of all, the mean of the `patches`
            alone, or their `map`, pooled as feature maps are; of a text the `class` (first) token, the `mean`, or the
            `last`, padding left out; `auto` is the class token if there is one, else the mean, and what the final exit
            reads of a text.
    """

    at: list[str | int]
    weights: list[float]
    ramp: Literal["linear", "constant"] = "linear"
    pool: int = 2
    detach: bool = False
    cascade: bool = False
    tokens: Literal["auto", "class", "mean", "patches", "map", "last"] = "auto"

    def __post_init__(self) -> None:
        if len(self.at) != len(self.weights):
            raise ConfigurationError(
                f"exits.weights has {len(self.weights)} values for {len(self.at)} ACs; give one weight per AC"
            )
        if any(weight < 0 for weight in self.weights):
            raise ConfigurationError(f"exits.weights is {self.weights}; every weight must be at least 0")
        if len(set(self.at)) != len(self.at):
            raise ConfigurationError(f"exits.at is {self.at}; every stage may be named once")
        if self.pool < 1:
            raise ConfigurationError(f"exits.pool is {self.pool}; it must be at least 1")

    def stages(self, names: Sequence[str]) -> list[str]:
        """The stages in `at` by name.

        Args:
            names: of all stages, shallow to deep.
        Raises:
            ConfigurationError: if there is no such stage, the last one is named, or they are not in order.
        """
        allowed, found = list(names[:-1]), []
        for stage in self.at:
            number = int(stage) if str(stage) not in allowed and str(stage).isdecimal() else None
            if number is not None and number >= len(allowed):
                raise ConfigurationError(
                    f"exits.at has {number}; stages that may have an AC are numbered from 0 to {len(allowed) - 1}"
                )
            found.append(str(stage) if number is None else allowed[number])
            if found[-1] not in allowed:
                raise ConfigurationError(unknown("stage in exits.at", found[-1], allowed))
        if sorted(set(found), key=allowed.index) != found:
            raise ConfigurationError(f"exits.at is {self.at}; name each stage once, from shallow to deep")
        return found

    def layout(self, stage: Layout | None) -> Layout | None:
        """How an AC reads a stage's output of that layout."""
        if self.tokens == "auto" or stage is None or AXES[stage] != AXES["tokens"]:
            return stage
        allowed = TEXT_LAYOUTS if stage in TEXT_READINGS else TOKEN_LAYOUTS
        if self.tokens not in allowed:
            what = "texts" if stage in TEXT_READINGS else "images"
            raise ConfigurationError(
                f"exits.tokens is '{self.tokens}', which {what} have not; take {', '.join(allowed)}"
            )
        return allowed[self.tokens]

    def check_tokens(self, name: str, shape: Sequence[int], layout: Layout | None) -> None:
        """Raises a `ConfigurationError` if the tokens at the stage `name` are no square of patches behind few others.

        Args:
            shape: of the stage's output.
            layout: of it.
        """
        if layout in TEXT_READINGS:
            return
        others = shape[0] - math.isqrt(shape[0]) ** 2
        if self.tokens in ("patches", "map") and len(shape) == AXES["tokens"] and others > MOST_OTHER_TOKENS:
            raise ConfigurationError(
                f"exits.tokens is '{self.tokens}', but the {shape[0]} tokens of the stage '{name}' hold no square of "
                "patches; take class or mean"
            )

    def weights_at(self, epoch: int, epochs: int) -> list[float]:
        """Loss weights of all E exits in `epoch` (from 0) of `epochs`: `0.01 + e / (epochs − 1) · (W − 0.01)`.

        An AC of weight 0 is never trained, by weight decay neither; a single epoch trains with the final weights.
        """
        done = epoch / (epochs - 1) if epochs > 1 else 1.0
        start = 0.01 if self.ramp == "linear" else None
        ramped = [w if start is None or w == 0 else start + done * (w - start) for w in self.weights]
        return [*ramped, 1.0]

    @property
    def weights_of_heads(self) -> list[float]:
        """Loss weights of all E exits where heads alone learn: 1, as no exit takes anything from another; or 0 of 0."""
        return [*(float(weight > 0) for weight in self.weights), 1.0]


NO_EXITS = Exits([], [])
