"""A network from time to amplitude that is trained for one clip alone: what a hypernetwork saves."""

import torch
from torch import Tensor, nn

from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError
from cl_ac.sound.targets import FourierTarget, SirenTarget, moments


def fit_clip(target: nn.Module, wave: Tensor, steps: int = 500, lr: float = 0.01) -> Tensor:
    """Trains `target` on the values of a clip by Adam and mean squared error; returns what it then gives.

    Args:
        target: maps moments [N, 1] to values [N].
        wave: [N].
        steps: over the whole clip.
        lr: learning rate, falling to 0 along a cosine.

    Returns:
        The reconstruction [N].

    Raises:
        ConfigurationError: for no step or no rate.
    """
    if steps < 1 or lr <= 0:
        raise ConfigurationError(f"a clip is fitted in {steps} steps at the rate {lr:g}; both must be above 0")
    optimizer = torch.optim.Adam(target.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    time = moments(len(wave)).to(wave.device)
    for _ in range(steps):
        optimizer.zero_grad()
        (target(time) - wave).square().mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return target(time)


def fresh(target: FourierTarget | SirenTarget, seed: int) -> FourierTarget | SirenTarget:
    """A network like `target` with weights of its own, drawn from `seed`."""
    with global_stream(seed, "single clip"):
        if isinstance(target, SirenTarget):
            return SirenTarget(target.width, target.depth, target.omegas[0], target.omegas[-1])
        return FourierTarget(target.width, target.depth, len(target.periods))
