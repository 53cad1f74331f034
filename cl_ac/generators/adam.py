"""Adam, whose state is saved with the module that it belongs to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cl_ac.data.growing import Growing
from cl_ac.errors import ConfigurationError


class Adam(Growing):
    """Adam (Kingma & Ba, 2015) for what learns beside a run's network, whatever optimiser that has.

    A step whose gradient is not finite, as of an overflow in half precision, changes nothing. Where a run scales its
    loss, as float16 needs, gradients are divided by that scale if the loss went through `watch`: a moment that mixes
    gradients of before and after a change of the scale would be no mean of either.

    Args:
        lr: learning rate.
        betas: of the running means of gradients and of their squares.
    """

    first: Tensor
    second: Tensor
    steps: Tensor

    def __init__(self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)):
        super().__init__()
        if lr <= 0:
            raise ConfigurationError(f"the learning rate of Adam is {lr:g}; it must be above 0")
        self.lr, self.betas = lr, betas
        # Adds nothing to a loss; its gradient is what all other gradients are scaled by.
        self.scale = nn.Parameter(torch.ones(()))

    def reset(self, parameters: Sequence[nn.Parameter]) -> None:
        """Forgets all earlier steps; from now on `parameters` learn."""
        zeros = torch.zeros(sum(each.numel() for each in parameters), device=parameters[0].device)
        self.register_buffer("first", zeros)
        self.register_buffer("second", zeros.clone())
        self.register_buffer("steps", zeros.new_zeros(()))

    def watch(self, loss: Tensor) -> Tensor:
        """The same loss [], of which `step` then knows how it was scaled before its gradient was taken."""
        return loss + (self.scale - self.scale.detach())

    @torch.no_grad()
    def step(self, parameters: Sequence[nn.Parameter]) -> None:
        """One step down the gradients of the parameters, which are then cleared."""
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        gradient = torch.cat([each.flatten() for each in gradients])
        if self.scale.grad is not None:
            gradient, self.scale.grad = gradient / self.scale.grad, None
        finite = gradient.isfinite().all().to(gradient.dtype)
        gradient = gradient.nan_to_num(0, 0, 0) * finite
        self.steps += finite
        for moment, beta, value in zip((self.first, self.second), self.betas, (gradient, gradient**2), strict=True):
            moment += finite * (1 - beta) * (value - moment)
        first, second = (
            moment / (1 - beta**self.steps).clamp(min=1e-12)
            for moment, beta in zip((self.first, self.second), self.betas, strict=True)
        )
        moves = (finite * self.lr * first / (second.sqrt() + 1e-8)).split([each.numel() for each in parameters])
        for parameter, move in zip(parameters, moves, strict=True):
            parameter -= move.view_as(parameter)
            parameter.grad = None
