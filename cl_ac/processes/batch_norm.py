"""Batch norm over the batch of all processes, on any device.

PyTorch's own `SyncBatchNorm` is another module and runs on GPUs only; here the function itself is replaced while
a shared pass runs, so that networks, their states and their copies stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from cl_ac.processes.group import Group


class SynchronisedBatchNorm(TorchFunctionMode):
    """While it is entered, batch norm in training mode uses the statistics of the samples of all processes."""

    def __init__(self, group: Group):
        super().__init__()
        self.group = group

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is F.batch_norm:
            bound = _SIGNATURE.bind(*arguments, **(named or {}))
            bound.apply_defaults()
            if bound.arguments["training"]:
                return _normalised(self.group, **bound.arguments)
        return function(*arguments, **(named or {}))


_SIGNATURE = signature(F.batch_norm)


def _normalised(
    group: Group,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    with torch.no_grad():
        axes = [axis for axis in range(input.ndim) if axis != 1]
        precise = torch.promote_types(input.dtype, torch.float32)
        variance, mean = torch.var_mean(input.detach().to(precise), axes, correction=0)
        here = torch.cat([mean.new_tensor([input.numel() / input.shape[1]]), mean, variance])
        rows = group.gathered(here[None], group.size)
        counts, (means, variances) = rows[:, :1], rows[:, 1:].chunk(2, 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
    normalised: Tensor = _BatchNorm.apply(input, weight, bias, mean, variance, total, eps)
    return normalised


class _BatchNorm(torch.autograd.Function):
    """Normalisation with statistics of all processes, through which the gradient reaches the samples of all."""

    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        total: Tensor,
        eps: float,
    ) -> Tensor:
        context.save_for_backward(values, weight, mean, (variance + eps).rsqrt(), total)
        return F.batch_norm(values, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, scale, total = context.saved_tensors
        axes = [axis for axis in range(values.ndim) if axis != 1]
        shape = [1, -1, *[1] * (values.ndim - 2)]
        added = gradient.sum(axes, dtype=mean.dtype)
        along = (gradient * values).sum(axes, dtype=mean.dtype) - mean * added
        sums = torch.cat([added, along])
        dist.all_reduce(sums)
        all_added, all_along = sums.chunk(2)
        factor = scale if weight is None else scale * weight
        slope = -factor * scale.square() * all_along / total
        offset = -factor * all_added / total - slope * mean
        factor, slope, offset = (value.to(gradient.dtype).view(shape) for value in (factor, slope, offset))
        of_values = torch.addcmul(gradient * factor + offset, values, slope)
        of_weight = None if weight is None else along * scale
        return of_values, of_weight, None if weight is None else added, None, None, None, None
