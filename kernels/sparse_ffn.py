"""Dynamic-k mixture-of-experts FFN (D2DMoE: Szatkowski et al., NeurIPS 2024, section 3.4), one function over backends.

Legend: N tokens, D model width, E experts, M neurons per expert.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from cl_ac.kernels import torch_ffn
from cl_ac.kernels.cost import CallCost, Usage, machine_for, measured_usage, predicted_cost, workload_of
from cl_ac.kernels.experts import Experts, check, dense_ffn

Backend = Literal["auto", "torch", "triton", "interpreter", "dense"]
BACKENDS = get_args(Backend)
# arguments of a call that nothing but the device computes on
ORDINARY = {Tensor, Parameter, str, type(None)}


def sparse_ffn(
    x: Tensor, mask: Tensor, experts: Experts, backend: Backend = "auto", usage: Usage | None = None
) -> Tensor:
    """Sum over the experts each token asks for, each with weight one, plus the output bias.

    Backends give the same result up to rounding, `dense` included: it runs everything, then applies the mask.
    Differentiable once in x and in every weight, not in the mask. For autograd, `torch.compile` and whatever else looks
    at operators it is one custom op; plain inference goes without, since dispatching it costs one token up to a third.

    Args:
        x: [..., D], fp32, fp16 or bf16; sums are kept in fp32.
        mask: [..., E], bool; a token may ask for no expert, and then gets the bias.
        experts: weights in x's dtype.
        backend: `torch` on any device; `triton` on a GPU; `interpreter` runs the Triton kernels on the CPU, for tests,
            in a process started with TRITON_INTERPRET=1; `dense`; `auto` is `dense` unless `expected_cost` says that
            `torch` (on a CPU) or `triton` (on a GPU) pays.
        usage: what `auto` decides on. On a CPU it defaults to the mask's own. On a GPU reading the mask would stall
            the device, so pass a calibration batch's `cost.measured_usage`; without it `auto` is `dense`.

    Returns:
        [..., D] in x's dtype.

    Raises:
        ValueError: shapes, dtypes or names that do not fit, all in one message; a backend the device does not have.
    """
    check(x, mask, experts)
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    tokens, wanted = x.reshape(-1, x.shape[-1]), mask.reshape(-1, mask.shape[-1])
    if _is_observed(tokens, wanted, experts):
        out = sparse_ffn_op(tokens, wanted, *experts, backend, [] if usage is None else list(usage))
    else:
        out = _forward(tokens, wanted, experts, backend, usage)
    return out.view_as(x)


def _is_observed(x: Tensor, mask: Tensor, experts: Experts) -> bool:
    """Whether anything but the caller wants to know of the call, which then has to be one operator.

    That is autograd, a tracer or compiler, a mode or a kind of tensor that interprets operators. Nothing of it is
    there in plain inference, where the operator's own price is a good part of a call with one token.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_in_torch_dispatch_mode():
        return True
    if not ORDINARY.issuperset(map(type, (x, mask, *experts))) or torch._C._functorch.peek_interpreter_stack():
        return True
    return torch.is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in (x, *experts))


def expected_cost(x: Tensor, experts: Experts, usage: Usage) -> CallCost:
    """What `auto` compares for a call with x [N, D]: predicted seconds of dense and of this device's sparse backend."""
    on_cpu = x.device.type == "cpu"
    machine = machine_for(x.device.type, x.dtype)
    few = not on_cpu and _decodes(*x.shape)
    return predicted_cost(workload_of(x, experts), usage, machine, single_launch=few, token_major=not on_cpu)


def chosen_backend(x: Tensor, mask: Tensor, experts: Experts, usage: Usage | None) -> Backend:
    """What `auto` runs for x [N, D] and mask [N, E]."""
    if usage is None:
        if x.device.type != "cpu":
            return "dense"
        usage = measured_usage(mask)
    if not expected_cost(x, experts, usage).pays:
        return "dense"
    return "triton" if x.device.type == "cuda" else "torch"


def _decodes(tokens: int, width: int) -> bool:
    from cl_ac.kernels.decode_ffn import fits

    return fits(tokens, width)


@torch.library.custom_op("cl_ac::sparse_ffn", mutates_args=())
def sparse_ffn_op(
    x: Tensor,
    mask: Tensor,
    up: Tensor,
    down: Tensor,
    activation: str,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    gate: Tensor | None,
    gate_bias: Tensor | None,
    backend: str,
    usage: list[float],
) -> Tensor:
    """`sparse_ffn` on flat arguments: x [N, D], mask [N, E]; usage is empty or the three shares of `Usage`."""
    experts = Experts(up, down, activation, up_bias, down_bias, gate, gate_bias)
    return _forward(x, mask, experts, backend, Usage(*usage) if usage else None)


def _forward(x: Tensor, mask: Tensor, experts: Experts, backend: str, usage: Usage | None) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        # the dtypes are the caller's choice, and products in another one would not add up
        with torch.autocast(x.device.type, enabled=False):
            return _forward(x, mask, experts, backend, usage)
    x, mask = x.contiguous(), mask.contiguous()
    if not len(x):
        return torch.empty_like(x)
    if backend == "auto":
        backend = chosen_backend(x, mask, experts, usage)
    if backend == "dense":
        return dense_ffn(x, mask, experts)
    if backend == "torch":
        return (torch_ffn.one_token_ffn if len(x) == 1 else torch_ffn.grouped_ffn)(x, mask, experts)
    return _triton_ffn(x, mask, experts, backend)


def _triton_ffn(x: Tensor, mask: Tensor, experts: Experts, backend: str) -> Tensor:
    # imported here because Triton exists on Linux only
    import triton

    from cl_ac.kernels.decode_ffn import decode, decode_ffn
    from cl_ac.kernels.grouped_ffn import grouped_ffn

    if backend == "triton" and x.device.type != "cuda":
        raise ValueError(f"backend 'triton' needs a GPU, x is on {x.device}; use 'torch' or 'auto'")
    if backend == "interpreter" and (x.device.type != "cpu" or isinstance(decode, triton.JITFunction)):
        raise ValueError("backend 'interpreter' needs CPU tensors and a process started with TRITON_INTERPRET=1")
    # Triton launches on the current GPU, wherever its operands are.
    with torch.cuda.device_of(x):
        return decode_ffn(x, mask, experts) if _decodes(*x.shape) else grouped_ffn(x, mask, experts)


@sparse_ffn_op.register_fake
def _(x, mask, up, down, activation, up_bias, down_bias, gate, gate_bias, backend, usage) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("cl_ac::sparse_ffn_backward", mutates_args=())
def sparse_ffn_backward_op(
    grad: Tensor,
    x: Tensor,
    mask: Tensor,
    up: Tensor,
    down: Tensor,
    activation: str,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    gate: Tensor | None,
    gate_bias: Tensor | None,
) -> list[Tensor]:
    """Gradients of x, up, down and of those of up_bias, down_bias, gate, gate_bias that are given, in this order."""
    experts = Experts(up, down, activation, up_bias, down_bias, gate, gate_bias)
    x_grad, weights = torch_ffn.gradients(
        grad.contiguous(), x.contiguous(), mask, experts, grouped=x.device.type == "cpu"
    )
    return [x_grad, *(weight for weight in weights if isinstance(weight, Tensor))]


@sparse_ffn_backward_op.register_fake
def _(grad, x, mask, up, down, activation, up_bias, down_bias, gate, gate_bias) -> list[Tensor]:
    given = [x, *(weight for weight in (up, down, up_bias, down_bias, gate, gate_bias) if weight is not None)]
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in given]


def _save_for_backward(ctx, inputs: tuple, output: Tensor) -> None:
    x, mask, up, down, ctx.activation, *biases_and_gate = inputs[:9]
    ctx.save_for_backward(x, mask, up, down, *biases_and_gate)


def _backward(ctx, grad: Tensor) -> tuple:
    x, mask, up, down, *optional = ctx.saved_tensors
    x_grad, *weights = sparse_ffn_backward_op(grad, x, mask, up, down, ctx.activation, *optional)
    remaining = iter(weights)
    up_grad, down_grad = next(remaining), next(remaining)
    optional_grads = [None if weight is None else next(remaining) for weight in optional]
    return x_grad, None, up_grad, down_grad, None, *optional_grads, None, None


sparse_ffn_op.register_autograd(_backward, setup_context=_save_for_backward)
