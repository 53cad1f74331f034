"""Which expert of a mixture makes a sample: a router over conditions, its gates, and what keeps experts apart and used.

After ExpertSim (mixture of generative experts, Będkowski et al., 2025), in whose public code the router is optimised
only if an epoch to stop at is set, and even then no loss of an expert reaches it: a hard choice passes no gradient.
Here the gates weigh what each expert would have lost with each sample, so that a router learns whom to ask; the
published gate is an option.

Legend: N samples, E experts, F features.
"""

from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gate = Literal["learned", "published"]
# exp(1 / gates) goes on as its tangent from here, and stays a number when an expert is asked for nothing.
STEEPEST = 20.0


class Router(nn.Sequential):
    """Says from a condition which expert should make the sample: [N, C] to logits [N, E].

    Args:
        conditions: C.
        experts: E.
        hidden: widths of the hidden layers; the paper's by default.
    """

    def __init__(self, conditions: int, experts: int, hidden: tuple[int, ...] = (128, 64, 32)):
        layers: list[nn.Module] = []
        for before, after in pairwise((conditions, *hidden)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.1)]
        super().__init__(*layers, nn.Linear((conditions, *hidden)[-1], experts))


@dataclass(frozen=True)
class Gates:
    """What a router decided.

    Args:
        soft: [N, E], each row sums to 1.
        chosen: the expert of each sample, int64 [N].
    """

    soft: Tensor
    chosen: Tensor

    @property
    def hard(self) -> Tensor:
        """[N, E]: 1 for the chosen expert, with the gradient of the soft gates (straight through)."""
        chosen = F.one_hot(self.chosen, self.soft.shape[-1]).to(self.soft)
        return chosen + self.soft - self.soft.detach()

    @property
    def usage(self) -> Tensor:
        """The share of the samples that each expert is chosen for, [E]."""
        return F.one_hot(self.chosen, self.soft.shape[-1]).double().mean(0)


def gates(logits: Tensor, noise: Tensor | None = None, gate: Gate = "learned") -> Gates:
    """The gates of router logits [N, E]: a Gumbel-softmax at temperature 1.

    Args:
        noise: Gumbel noise [N, E], or None where samples are to be routed without chance.
        gate: `published` takes the probabilities for logits, so that the noise outweighs what the router says.
    """
    logits = logits.softmax(-1) if gate == "published" else logits
    soft = (logits if noise is None else logits + noise).softmax(-1)
    return Gates(soft, soft.argmax(-1))


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gumbel noise, of the CPU."""
    return -torch.empty(shape).exponential_(generator=generator).clamp(min=1e-30).log()


def expected_loss(gates: Gates, losses: Tensor, gate: Gate = "learned") -> Tensor:
    """What the experts lose with the samples that the gates give them, mean over samples.

    Args:
        losses: of each expert with each sample, [N, E], without gradient; of the published gate only the chosen
            experts' count, and no gradient reaches the gates.
    """
    if gate == "published":
        return losses.gather(1, gates.chosen[:, None]).mean()
    return (gates.soft * losses).sum(-1).mean()


def differentiation(gates: Gates, features: Tensor, gate: Gate = "learned") -> Tensor:
    """How alike two experts' samples are at most: the largest cosine over pairs of samples, mean over pairs of experts.

    Args:
        features: of the samples that each expert makes, [N, E, F]; only those of the chosen experts count. With the
            learned gate its gradient moves such a pair of samples to the same expert.

    Returns:
        A scalar, 0 for a single expert; a pair of which one expert is chosen for nothing counts 0.
    """
    count = features.shape[1]
    if count < 2:
        return features.new_zeros(())
    hard = gates.hard if gate == "learned" else gates.hard.detach()
    unit = F.normalize(features, dim=-1)
    values = []
    for first, second in combinations(range(count), 2):
        own, other = (torch.where(gates.chosen == expert)[0] for expert in (first, second))
        if len(own) and len(other):
            cosines = unit[own, first] @ unit[other, second].T
            values.append((hard[own, first, None] * hard[other, second] * cosines).max())
        else:
            values.append(features.new_zeros(()))
    return torch.stack(values).mean()


def load_balance(gates: Gates) -> Tensor:
    """`exp(1 / sum of gates)`, mean over experts: steep only where one is asked for less than a sample."""
    steep = 1 / gates.soft.sum(0).clamp(min=1e-6)
    bent = steep.clamp(max=STEEPEST)
    return (bent.exp() * (1 + steep - bent)).mean()


def utilisation(gates: Gates) -> Tensor:
    """How far the mean gate is from giving each expert as much: `log E` minus its entropy, in nats."""
    mean = gates.soft.mean(0)
    return torch.log(torch.tensor(float(len(mean)))) + torch.xlogy(mean, mean).sum()


def distribution(gates: Gates, intensities: Tensor) -> Tensor:
    """Samples of different intensity that share experts: gate similarity × distance, mean over pairs of samples.

    Args:
        intensities: [N], such as the logarithm of a sum of photons.
    """
    if len(intensities) < 2:
        return gates.soft.new_zeros(())
    similar = gates.soft @ gates.soft.T
    distances = (intensities[:, None] - intensities[None]).abs()
    return (similar * distances).sum() / (len(intensities) * (len(intensities) - 1))
