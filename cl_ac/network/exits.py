"""Where auxiliary classifiers hang, and how much they weigh."""

from dataclasses import dataclass
from typing import Literal

from cl_ac.errors import ConfigurationError


@dataclass(frozen=True)
class Exits:
    """Where auxiliary classifiers (ACs) hang and how much their losses weigh; the final classifier comes on top.

    Args:
        at: the stages at whose end an AC hangs, shallowest first.
        weights: final loss weight of each AC; the final classifier's is 1.
        ramp: `linear` raises each weight from 0.01 to its final value over the epochs of a task, `constant` keeps it.
        pool: factor by which a feature map's sides shrink before the classifier.
        detach: whether ACs only read the backbone and send no gradient into it (linear probing).
        cascade: whether each AC also reads the logits of the AC before it, without gradient (Wołczyk et al., 2021,
            ZTW); the final classifier never does.
    """

    at: list[str]
    weights: list[float]
    ramp: Literal["linear", "constant"] = "linear"
    pool: int = 2
    detach: bool = False
    cascade: bool = False

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
