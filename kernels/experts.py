"""What an FFN cut into experts is made of, and the dense arithmetic that every backend has to reproduce.

Legend: N tokens, D model width, E experts, M neurons per expert (E·M is the hidden width of the dense FFN).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Experts(NamedTuple):
    """Weights of an FFN whose neurons are grouped into experts of equal size.

    Plain experts compute ``down · act(up · x + up_bias)``, GLU experts (`gate` given) compute
    ``down · (act(gate · x + gate_bias) * (up · x + up_bias))``. A token's output is the sum over its experts plus
    `down_bias`, so running all experts is the dense FFN. Row m of all three matrices belongs to neuron m, contiguous
    over D: whatever is skipped is skipped in whole rows.

    Attributes:
        up: [E, M, D].
        down: [E, M, D], the transpose of the usual second Linear's weight.
        activation: one of `ACTIVATIONS`.
        up_bias: [E, M] or None.
        down_bias: [D] or None.
        gate: [E, M, D] or None.
        gate_bias: [E, M] or None.
    """

    up: Tensor
    down: Tensor
    activation: str = "relu"
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    gate: Tensor | None = None
    gate_bias: Tensor | None = None

    def flat(self) -> "Experts":
        """The dense FFN's layout: weights [E·M, D] and biases [E·M] (views, no copy)."""
        up, down, activation, up_bias, down_bias, gate, gate_bias = self
        biases = _flat(up_bias), down_bias
        return Experts(up.flatten(0, 1), down.flatten(0, 1), activation, *biases, _flat(gate), _flat(gate_bias))

    def neurons(self, first: int, last: int) -> "Experts":
        """Neurons first..last-1 of a `flat` layout, without the output bias (views, no copy)."""
        up, down, activation, up_bias, _, gate, gate_bias = self
        rows = slice(first, last)
        return Experts(
            up[rows],
            down[rows],
            activation,
            None if up_bias is None else up_bias[rows],
            None,
            None if gate is None else gate[rows],
            None if gate_bias is None else gate_bias[rows],
        )


def _flat(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.flatten(0, 1)


def check(x: Tensor, mask: Tensor, experts: Experts) -> None:
    """Raises one ValueError that lists everything wrong with the arguments of a sparse FFN call.

    Args:
        x: [..., D].
        mask: [..., E], bool.
    """
    up, down, activation, up_bias, down_bias, gate, gate_bias = experts
    if up.dim() != 3:
        raise ValueError(f"up has shape {tuple(up.shape)}; expected [experts, neurons, width]")
    shape, dtype = up.shape, x.dtype
    count, neurons, width = shape
    expected_mask = (*x.shape[:-1], count)
    problems = []
    if activation not in ACTIVATIONS:
        problems.append(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
    if gate is None and gate_bias is not None:
        problems.append("gate_bias is given without gate")
    if x.shape[-1] != width:
        problems.append(f"x has width {x.shape[-1]}, the experts {width}")
    if mask.dtype != torch.bool:
        problems.append(f"mask is {mask.dtype}; expected torch.bool")
    if mask.shape != expected_mask:
        problems.append(f"mask has shape {tuple(mask.shape)}; expected {expected_mask}")
    if dtype not in DTYPES:
        problems.append(f"x is {dtype}; supported: {', '.join(map(str, DTYPES))}")
    for name, weight, expected in (
        ("up", up, shape),
        ("down", down, shape),
        ("up_bias", up_bias, (count, neurons)),
        ("down_bias", down_bias, (width,)),
        ("gate", gate, shape),
        ("gate_bias", gate_bias, (count, neurons)),
    ):
        if weight is None:
            continue
        if weight.shape != expected:
            problems.append(f"{name} has shape {tuple(weight.shape)}; expected {tuple(expected)}")
        if weight.dtype != dtype:
            problems.append(f"{name} is {weight.dtype}, x is {dtype}")
        if not weight.is_contiguous():
            problems.append(f"{name} is not contiguous")
    if problems:
        raise ValueError("; ".join(problems))


def activate(pre: Tensor, activation: str) -> Tensor:
    """act(pre), elementwise."""
    if activation == "relu":
        return F.relu(pre)
    if activation == "silu":
        return F.silu(pre)
    return F.gelu(pre, approximate="tanh" if activation == "gelu_tanh" else "none")


def activation_gradient(grad: Tensor, pre: Tensor, activation: str) -> Tensor:
    """grad · act'(pre), elementwise: spelled out because autograd records nothing inside a custom op."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, pre, 0)
    if activation == "silu":
        return torch.ops.aten.silu_backward(grad, pre)
    return torch.ops.aten.gelu_backward(grad, pre, approximate="tanh" if activation == "gelu_tanh" else "none")


# Multiply-accumulates and rows from which oneDNN multiplies float32 matrices faster than the BLAS that PyTorch takes
# (AMD EPYC, 1 thread, November 2026: by 10 to 20 % at D=768, F=3072, N from 4 to 1576; with fewer rows it is slower).
ONEDNN_MACS, ONEDNN_ROWS = 9e6, 4


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, D] times the transpose of weight [F, D], plus bias [F]: [N, F].

    Where no gradient is recorded, large products on a CPU go to the library that is faster.
    """
    large = len(x) >= ONEDNN_ROWS and len(x) * weight.numel() >= ONEDNN_MACS
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    if large and on_cpu and not torch.is_grad_enabled() and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def hidden_neurons(x: Tensor, neurons: Experts) -> Tensor:
    """Hidden activations [N, F] of the F neurons of a `flat` layout, for x [N, D]; the result is the caller's own."""
    up = product(x, neurons.up, neurons.up_bias)
    if neurons.gate is None:
        return up.relu_() if neurons.activation == "relu" else activate(up, neurons.activation)
    return activate(product(x, neurons.gate, neurons.gate_bias), neurons.activation).mul_(up)


def dense_ffn(x: Tensor, mask: Tensor, experts: Experts) -> Tensor:
    """Every expert runs on every token and what the mask excludes is zeroed: the yardstick for the sparse backends.

    Args:
        x: [N, D].
        mask: [N, E], bool.

    Returns:
        [N, D].
    """
    flat = experts.flat()
    hidden = hidden_neurons(x, flat)
    # Bits are cleared, not numbers multiplied: an infinity in an expert that was not asked for must not turn into NaN.
    # masked_fill_ does that too, eight times as slowly (CPU, N=1576, E=24, M=128, November 2026: 3.9 ms, 0.5 ms).
    if mask.device.type != "cpu" or not mask.all():
        bits = torch.int32 if hidden.dtype == torch.float32 else torch.int16
        hidden.view(*mask.shape, -1).view(bits).bitwise_and_(mask.to(bits).neg_().unsqueeze(-1))
    return product(hidden, flat.down.t(), flat.down_bias)
