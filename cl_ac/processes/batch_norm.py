"""Batch norm over the batch of all processes, on any device.

PyTorch's own `SyncBatchNorm` is another module and runs on GPUs only; here the function itself is replaced while
a shared pass runs, so that networks, their states and their copies stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
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
        precise = torch.promote_types(input.dtype, torch.float32)
        # One fused kernel; `torch.var_mean` over all axes but the channels takes longer than a convolution on CPUs.
        mean, variance = torch.batch_norm_update_stats(input.detach().to(precise), None, None, 0.0)
        # Doubles, because a variance is the small difference of two large moments.
        mean, variance = mean.double(), variance.double()
        count = mean.new_tensor([input.numel() / input.shape[1]])
        sums = torch.cat([count, count * mean, count * torch.addcmul(variance, mean, mean)])
        group.add_up(sums)
        total = sums[0]
        mean, square = (sums[1:] / total).chunk(2)
        variance = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * total / (total - 1)).to(running_var.dtype), momentum)
        mean, variance, total = mean.to(precise), variance.to(precise), total.to(precise)
    normalised: Tensor = _BatchNorm.apply(input, weight, bias, mean, variance, total, eps, group)
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
        group: Group,
    ) -> Tensor:
        context.save_for_backward(values, weight, mean, variance, total)
        context.eps, context.group = eps, group
        return F.batch_norm(values, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance, total = context.saved_tensors
        # As if it were not training: what this kernel sums fused over samples is along the normalised values.
        _, along, added = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, mean, variance, None, None, False, context.eps, [False, True, True]
        )
        sums = torch.cat([added, along])
        context.group.add_up(sums)
        all_added, all_along = (sums / total).chunk(2)
        scale = (variance + context.eps).rsqrt()
        factor = scale if weight is None else scale * weight
        slope = -factor * scale * all_along
        offset = -factor * all_added - slope * mean
        shape = [1, -1, *[1] * (values.ndim - 2)]
        factor, slope, offset = (value.to(gradient.dtype).view(shape) for value in (factor, slope, offset))
        of_values = torch.addcmul(offset, values, slope).addcmul_(gradient, factor)
        of_weight, of_bias = (None, None) if weight is None else (along, added)
        return of_values, of_weight, of_bias, None, None, None, None, None
