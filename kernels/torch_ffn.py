"""Sparse FFN in plain PyTorch: expert by expert on gathered tokens, the fast way on a CPU, and its gradients.

Legend: N tokens, D model width, E experts, M neurons per expert, R tokens of one run, F of its neurons.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_ac.kernels.experts import Experts, activate, activation_gradient, hidden_neurons, product


def runs(mask: Tensor) -> Iterator[tuple[int, int, Tensor | None]]:
    """Longest ranges of neighbouring experts that serve the same tokens, skipping experts that serve none.

    Tokens that agree turn many thin products into a few wide ones.

    Args:
        mask: [N, E], bool.

    Yields:
        first expert, last expert + 1, ascending token indices [R] int64 or None for all tokens.
    """
    columns = mask.t().contiguous()
    counts = columns.sum(1).tolist()
    changes = (columns[1:] ^ columns[:-1]).any(1).tolist()
    starts = [0, *(expert for expert, change in enumerate(changes, 1) if change)]
    for first, last in zip(starts, [*starts[1:], len(counts)], strict=True):
        if counts[first]:
            yield first, last, None if counts[first] == len(mask) else columns[first].nonzero()[:, 0]


def one_token_ffn(x: Tensor, mask: Tensor, experts: Experts) -> Tensor:
    """`grouped_ffn` for one token: one read of the mask and few operations, each of which costs as much as a product.

    Args:
        x: [1, D].
        mask: [1, E], bool.

    Returns:
        [1, D] in x's dtype.
    """
    size = experts.up.shape[1]
    flat, bias = experts.flat(), experts.down_bias
    out = torch.zeros_like(x, dtype=torch.float32) if bias is None else bias.to(torch.float32, copy=True).unsqueeze(0)
    (wanted,) = mask.tolist()
    start = 0
    for asked, neighbours in groupby(wanted):
        end = start + size * len(list(neighbours))
        if asked:
            neurons = flat.neurons(start, end)
            hidden = hidden_neurons(x, neurons)
            if hidden.dtype == out.dtype:
                out.addmm_(hidden, neurons.down)
            else:
                out += hidden @ neurons.down
        start = end
    return out.to(x.dtype)


def grouped_ffn(x: Tensor, mask: Tensor, experts: Experts) -> Tensor:
    """FFN over the experts each token asks for; cost grows with the executed pairs, not with E.

    The sum over experts is kept in fp32; below fp32 each expert's product is rounded once by the matrix product.

    Args:
        x: [N, D].
        mask: [N, E], bool.

    Returns:
        [N, D] in x's dtype.
    """
    size = experts.up.shape[1]
    flat, bias = experts.flat(), experts.down_bias
    out = torch.empty_like(x, dtype=torch.float32)
    out = out.zero_() if bias is None else out.copy_(bias)
    # Fresh pages for every expert take longer (AMD EPYC, 1 thread, D=768, M=128, N=1576, 50 % sparsity, November 2026:
    # 113 ms with this buffer, 116 ms without).
    gathered = torch.empty_like(x)
    for first, last, rows in runs(mask):
        neurons = flat.neurons(first * size, last * size)
        if rows is None:
            out += product(hidden_neurons(x, neurons), neurons.down.t())
        else:
            hidden = hidden_neurons(torch.index_select(x, 0, rows, out=gathered[: len(rows)]), neurons)
            out.index_add_(0, rows, product(hidden, neurons.down.t()).float())
    return out.to(x.dtype)


def gradients(grad: Tensor, x: Tensor, mask: Tensor, experts: Experts, grouped: bool) -> tuple[Tensor, Experts]:
    """Gradients of the sparse FFN with respect to x and every weight; hidden activations are recomputed.

    Args:
        grad: [N, D], gradient of the output.
        x: [N, D].
        mask: [N, E], bool.
        grouped: work run by run, whose lists are read on the host; otherwise all experts run and the mask zeroes
            what it excludes, without synchronisation.

    Returns:
        gradient of x [N, D], and gradients of the weights in the shape of `experts` (None where a weight is None).
    """
    zeros: dict[str, Any] = {
        name: torch.zeros_like(w) for name, w in experts._asdict().items() if isinstance(w, Tensor)
    }
    weights = experts._replace(**zeros)
    if weights.down_bias is not None:
        weights.down_bias.copy_(grad.sum(0))
    flat, flat_weights = experts.flat(), weights.flat()
    size = experts.up.shape[1]
    if not grouped:
        keep = mask.repeat_interleave(size, dim=1, output_size=len(flat.up))
        return _neuron_gradients(grad, x, flat, flat_weights, keep), weights
    x_grad = torch.zeros_like(x, dtype=torch.float32)
    for first, last, rows in runs(mask):
        span = (first * size, last * size)
        if rows is None:
            x_grad += _neuron_gradients(grad, x, flat.neurons(*span), flat_weights.neurons(*span), None)
        else:
            part = _neuron_gradients(grad[rows], x[rows], flat.neurons(*span), flat_weights.neurons(*span), None)
            x_grad.index_add_(0, rows, part.float())
    return x_grad.to(x.dtype), weights


def _neuron_gradients(grad: Tensor, x: Tensor, neurons: Experts, weights: Experts, keep: Tensor | None) -> Tensor:
    """Writes the gradients of F neurons of a flat layout into `weights`, returns that of x [R, D].

    Args:
        keep: [R, F], bool, which neurons count for which token, or None for all.
    """
    up = F.linear(x, neurons.up, neurons.up_bias)
    hidden_grad = grad @ neurons.down.t()
    if keep is not None:
        hidden_grad = hidden_grad.masked_fill(~keep, 0)
    if neurons.gate is None:
        hidden = activate(up, neurons.activation)
        up_grad = activation_gradient(hidden_grad, up, neurons.activation)
        x_grad = up_grad @ neurons.up
    else:
        gate = F.linear(x, neurons.gate, neurons.gate_bias)
        gated = activate(gate, neurons.activation)
        hidden = gated * up
        up_grad = hidden_grad * gated
        gate_grad = activation_gradient(hidden_grad * up, gate, neurons.activation)
        x_grad = up_grad @ neurons.up + gate_grad @ neurons.gate
        torch.mm(gate_grad.t(), x, out=weights.gate)
        if weights.gate_bias is not None:
            torch.sum(gate_grad, 0, out=weights.gate_bias)
    if keep is not None:
        hidden = hidden.masked_fill(~keep, 0)
    torch.mm(up_grad.t(), x, out=weights.up)
    torch.mm(hidden.t(), grad, out=weights.down)
    if weights.up_bias is not None:
        torch.sum(up_grad, 0, out=weights.up_bias)
    return x_grad
